"""The process that holds vLLM: takes requests from a socket, steps the engine, sends back what has finished.

    python -m mgh_ds.synthesis.engines.vllm_child DESCRIPTOR

`VllmEngine` starts it in a process group of its own and speaks with it through the socket DESCRIPTOR. The
first message is {"start": the engine's configuration, "cache": a folder that goes when this process does},
each one after it is a request. Back come {"ready": version}, {"heartbeat": true} about twice a second while
tokens are made, {"done": [completions]}, {"fatal": text} for what no retry can mend, and {"died": text} for a
dead engine.

New requests join the running batch between two steps, so there is no barrier and no batch to wait for.
"""

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import multiprocessing.connection
import os
import queue
import random
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from typing import Any

from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.engines.port import Completion, Messages, Request, Sampling
from mgh_ds.synthesis.engines.wire import Inbox, Message, pack, request_from_json

HEARTBEAT_S = 0.5
RECEIVE_BYTES = 1 << 20

Waiting = queue.SimpleQueue[Message]


class Batch:
    """vLLM's engine and the requests that it works on."""

    def __init__(self, config: dict[str, Any]) -> None:
        import vllm

        self.version = f"vllm {vllm.__version__}"
        self._llm = vllm.LLM(**llm_arguments(config))
        self._template_arguments = config["chat_template_kwargs"]
        self._known_roles: set[tuple[str, ...]] = set()

    @property
    def busy(self) -> bool:
        return self._llm.llm_engine.has_unfinished_requests()

    def add(self, request: Request) -> Completion | None:
        """Adds one request; returns the end of one that vLLM refuses, such as a prompt that is too long.

        Raises MghError for what vLLM would refuse of every request.
        """
        from vllm.exceptions import VLLMClientError

        params = sampling_params(json.dumps(request.schema), request.sampling)
        self._check_roles(tuple(message["role"] for message in request.messages))
        try:
            prompt = self._render(request.messages)
            self._llm.llm_engine.add_request(request.unit_id, prompt, params)
        except VLLMClientError as error:
            return Completion(request.unit_id, "", "refused", 0, 0, error=str(error))
        return None

    def step(self) -> list[Completion]:
        """One step of the engine, a token for every running sequence; returns what it finished."""
        return [
            Completion(
                output.request_id,
                output.outputs[0].text,
                output.outputs[0].finish_reason,
                tokens_in=len(output.prompt_token_ids),
                tokens_out=len(output.outputs[0].token_ids),
            )
            for output in self._llm.llm_engine.step()
            if output.finished
        ]

    def _render(self, messages: Messages) -> Any:
        from vllm.renderers import ChatParams
        from vllm.utils.mistral import is_mistral_tokenizer

        renderer = self._llm.renderer
        arguments = {
            **self._template_arguments,
            "add_generation_prompt": True,
            "tokenize": is_mistral_tokenizer(renderer.tokenizer),
        }
        _, prompts = renderer.render_chat([messages], ChatParams(chat_template_kwargs=arguments))
        return prompts[0]

    def _check_roles(self, roles: tuple[str, ...]) -> None:
        # Templates refuse roles, not texts: one that refuses these would refuse every request of the stage.
        if roles in self._known_roles:
            return
        try:
            self._render([{"role": role, "content": "."} for role in roles])
        except Exception as error:
            raise MghError(
                f"the model's chat template cannot take the roles {', '.join(roles)}: {error}; "
                "choose an instruction-tuned model"
            ) from error
        self._known_roles.add(roles)


@functools.cache
def sampling_params(schema: str, sampling: Sampling) -> Any:
    """vLLM's SamplingParams for a JSON schema. Raises MghError if vLLM or its grammar refuses either."""
    from vllm.exceptions import VLLMError
    from vllm.sampling_params import (
        RepetitionDetectionParams,
        RequestOutputKind,
        SamplingParams,
        StructuredOutputsParams,
    )
    from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar

    # Two equal runs of 60 to 64 tokens, one after the other: so few comparisons find every period that
    # divides one of these lengths (1 to 10, 12, 15, 16, 20, 21, 30, 31, 32). To search all lengths from 1
    # would cost the scheduler ten times as much for each token.
    loop = RepetitionDetectionParams(min_pattern_size=60, max_pattern_size=64, min_count=2)
    try:
        params = SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,
            # No seed: with one vLLM leaves its fast sampler, and the text would depend on the batch anyway.
            structured_outputs=StructuredOutputsParams(json=schema),
            output_kind=RequestOutputKind.FINAL_ONLY,
            repetition_detection=loop if sampling.repetition_stop else None,
        )
        validate_xgrammar_grammar(params)
    except (VLLMError, ValueError) as error:
        raise MghError(f"vLLM refuses the JSON schema or the sampling of this stage: {error}") from error
    return params


def llm_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `vllm.LLM` for an EngineConfig as a dictionary."""
    vllm = dict(config["vllm"])
    kv_cache_gib = vllm.pop("kv_cache_gib")
    return {
        **vllm,
        "model": config["model"],
        "revision": config["revision"],
        "tokenizer_revision": config["revision"],
        "kv_cache_memory_bytes": None if kv_cache_gib is None else int(kv_cache_gib * 2**30),
        # Without the second key a model may write white space until max_tokens.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        # Another one at each start, so that neither shards nor restarts repeat each other's draws.
        "seed": random.SystemRandom().getrandbits(31),
    }


def main(descriptor: int) -> None:
    """Starts vLLM and serves; whatever ends it is told to the other end, which then ends this process."""
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    waiting: Waiting = queue.SimpleQueue()
    # No daemon: a main thread that fails first must not take along what ends vLLM's processes.
    threading.Thread(target=receive, args=(connection, waiting)).start()
    failure_kind = "fatal"
    try:
        batch = Batch(waiting.get()["start"])
        threading.Thread(target=end_with_vllm, daemon=True).start()
        connection.sendall(pack({"ready": batch.version}))
        failure_kind = "died"
        serve(batch, connection, waiting)
    except MghError as error:
        connection.sendall(pack({"fatal": str(error)}))
    except Exception as error:
        traceback.print_exc()
        connection.sendall(pack({failure_kind: f"{type(error).__name__}: {error}"}))


def end_with_vllm() -> None:
    """Ends this process group when a process that vLLM started here is gone: a step would wait for it for
    ever."""
    gone = multiprocessing.connection.wait(
        [process.sentinel for process in multiprocessing.active_children()]
    )
    print(f"{len(gone)} of vLLM's processes ended: so does this one", file=sys.stderr, flush=True)
    os.killpg(0, signal.SIGKILL)


def serve(batch: Batch, connection: socket.socket, waiting: Waiting) -> None:
    """Answers requests for as long as the process lives."""
    last_message = time.monotonic()
    while True:
        refused = [batch.add(request_from_json(message)) for message in take(waiting, block=not batch.busy)]
        done = [completion for completion in refused if completion is not None]
        if batch.busy:
            done += batch.step()
        if done:
            connection.sendall(pack({"done": [dataclasses.asdict(completion) for completion in done]}))
        elif time.monotonic() - last_message > HEARTBEAT_S:
            connection.sendall(pack({"heartbeat": True}))
        else:
            continue
        last_message = time.monotonic()


def take(waiting: Waiting, block: bool) -> list[Message]:
    """All messages that wait; with `block` at least one."""
    messages = [waiting.get()] if block else []
    with contextlib.suppress(queue.Empty):
        while True:
            messages.append(waiting.get_nowait())
    return messages


def receive(connection: socket.socket, waiting: Waiting) -> None:
    """Hands on what arrives. When the other end is gone, by kill -9 too, all that was started here goes."""
    inbox, cache = Inbox(), ""
    try:
        while data := connection.recv(RECEIVE_BYTES):
            for message in inbox.feed(data):
                cache = message.get("cache", cache)
                waiting.put(message)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
