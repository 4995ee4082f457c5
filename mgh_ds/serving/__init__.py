"""Exports served by vLLM: scheduling, batching and the server are vLLM's, the vectors those of `Encoder`.

`plugin` is what vLLM calls in each of its processes, `config` what happens before an engine starts, `model`
what runs in it, `texts` what becomes of its tokens. Nothing here imports vLLM before vLLM asks for it.
"""
