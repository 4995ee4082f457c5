"""What vLLM is told of an export before it starts an engine, and what it may not be asked to do with it.

The backbone runs our attention on whole texts, and vLLM sees a model without attention: no KV cache, hence no
prefix of a text to be cached and no part of one to be run. The host cuts the batch into texts, so graphs and
compilation are off.
"""

from typing import Any

from mgh_ds.common.errors import MghError
from mgh_ds.serving.hooks import need_hooks


class EmbedderConfig:
    """vLLM calls the one when it has read config.json, the other when all its settings are known."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Sets the longest prompt, the length of a vector and eager execution. Raises MghError for a folder
        that `read_folder` refuses, a longer length than its own, and what `refuse` names."""
        # Heavy, and this module is imported for models of others too.
        from mgh_ds.model.embedder import load_tokenizer
        from mgh_ds.serving.folder import model_folder, read_folder
        from mgh_ds.serving.texts import longest_prompt

        need_hooks()
        folder = model_folder(model_config.model, model_config.revision)
        settings, config = read_folder(folder)
        limit = longest_prompt(load_tokenizer(folder, settings, config))
        asked = model_config.original_max_model_len
        if asked is not None and asked > limit:
            raise MghError(
                f"--max-model-len is {asked}, but {folder} takes prompts of at most {limit} tokens"
            )
        model_config.max_model_len = min(model_config.max_model_len, limit)
        # An ELECTRA has a key of this name, which means another thing.
        model_config.hf_config.embedding_size = settings.dimensions or config.hidden_size
        model_config.enforce_eager = True
        _refuse(
            {
                "--quantization": model_config.quantization,
                "--enable-prompt-embeds": model_config.enable_prompt_embeds,
                "pooling_type of --pooler-config (the export says how it pools)": (
                    model_config.pooler_config and model_config.pooler_config.pooling_type
                ),
                "enable_chunked_processing of --pooler-config": (
                    model_config.pooler_config and model_config.pooler_config.enable_chunked_processing
                ),
            }
        )

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Asks for no memory for a KV cache. Raises MghError for what would split a model or a text, or take
        a part from another request."""
        parallel = vllm_config.parallel_config
        # There is none, but if nothing is said vLLM starts on CPUs only where 0.92 of all memory is free.
        vllm_config.cache_config.kv_cache_memory_bytes = 0
        _refuse(
            {
                "--tensor-parallel-size above 1": parallel.tensor_parallel_size > 1,
                "--pipeline-parallel-size above 1": parallel.pipeline_parallel_size > 1,
                "--enable-prefix-caching": vllm_config.cache_config.enable_prefix_caching,
                "--enable-chunked-prefill": vllm_config.scheduler_config.enable_chunked_prefill,
                "--enable-lora (merge adapters: mgh-ds export)": vllm_config.lora_config,
            }
        )


def _refuse(asked: dict[str, object]) -> None:
    for option, value in asked.items():
        if value:
            raise MghError(f"mgh-ds exports are served whole, text by text: leave out {option}")
