"""Any OpenAI-compatible HTTP endpoint as an engine: vLLM's own server, another machine's, a provider's."""

import asyncio
import json
import os
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from mgh_ds.common import extras
from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.config import EndpointConfig, EngineConfig
from mgh_ds.synthesis.engines.port import Completion, Engine, FinishReason, Request

REFUSED = (400, 413, 422)  # this one call cannot be answered
RETRIED = (408, 409, 429)  # by the client, as are 5xx and lost connections
NO_STATUS = 0  # the connection was lost, or time ran out
# So many refusals with no answer among them are not about single calls.
MAX_FIRST_REFUSALS = 8
LONGEST_WAIT_S = 120.0  # that the client grants between two tries
SHOWN_CHARS = 300
# What may leave for the endpoint: the client's own headers tell of this machine and of unrelated variables.
# By the last one the client knows again what was asked of it.
HEADERS = (
    *("host", "accept", "accept-encoding", "connection", "content-length", "content-type", "user-agent"),
    "x-stainless-raw-response",
)


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class _Answer(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage


def check(config: EngineConfig) -> None:
    """Raises MghError for an address or a key that cannot work."""
    check_endpoint(config.endpoint)


def open_engine(config: EngineConfig, _log: Path) -> Engine:
    """The endpoint prints elsewhere, so its log stays empty."""
    extras.need("synthesis", "engine.kind: endpoint")
    return EndpointEngine(config)


def check_endpoint(config: EndpointConfig) -> None:
    """Raises MghError for a base_url that is none or holds a secret, and for a key that is not there."""
    try:
        url = urlsplit(config.base_url)
        # Any @ counts: without // or with a slash in the password, no password would be found.
        secret = bool("@" in config.base_url or url.query or url.fragment)
    except ValueError:
        raise MghError("engine.endpoint.base_url is not a URL") from None
    if secret:
        raise MghError(
            "engine.endpoint.base_url has a user name, a password or a query, which would be written into "
            "the plan: leave them out and name the key's environment variable in engine.endpoint.api_key_env"
        )
    if url.scheme not in ("http", "https") or not url.hostname:
        raise MghError(
            f"engine.endpoint.base_url: {config.base_url} is not an http address like http://127.0.0.1:8000/v1"
        )
    if config.api_key_env is not None and not os.environ.get(config.api_key_env):
        raise MghError(
            f"engine.endpoint.api_key_env names {config.api_key_env}, but that environment variable is not "
            "set: export it, or set api_key_env to null for an endpoint without keys"
        )


class EndpointEngine:
    """An `Engine` over HTTP: one asyncio loop in a thread, at most `max_in_flight` calls at a time.

    Each call has limits of its own (`timeout_s`, `max_retries`), so the worker's watchdog has nothing to add.
    Sampling's `repetition_stop` is not sent: it is no part of the protocol.
    """

    version = "OpenAI-compatible endpoint"

    def __init__(self, config: EngineConfig) -> None:
        check_endpoint(config.endpoint)
        self._config = config
        self._url = config.endpoint.base_url
        self._key = os.environ[config.endpoint.api_key_env] if config.endpoint.api_key_env else ""
        self._client = _open_client(config, self._key)
        self._slots = asyncio.Semaphore(config.max_in_flight)
        self._outcomes: queue.SimpleQueue[Completion | Exception] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._answered = self._refused = 0
        self.last_progress = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> None:
        """Starts the calls."""
        for request in requests:
            asyncio.run_coroutine_threadsafe(self._serve(request), self._loop)

    def poll(self, timeout_s: float) -> list[Completion]:
        """What has finished. Raises MghError for a refused key, an unknown model, rubbish, or no answer.

        A call that alone gets no answer, while others do, ends with finish_reason error.
        """
        self.last_progress = time.monotonic()
        finished: list[Completion] = []
        while self._failure is None:
            try:
                outcome = self._outcomes.get(timeout=0.0 if finished else max(timeout_s, 0.0))
            except queue.Empty:
                break
            if isinstance(outcome, Exception):
                self._failure = outcome
            else:
                finished.append(outcome)
        if self._failure is not None and not finished:
            raise self._failure
        return finished

    def close(self) -> None:
        """Drops all calls."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._client.close()

    async def _serve(self, request: Request) -> None:
        try:
            async with self._slots:
                self._outcomes.put(await self._call(request))
        except Exception as error:
            self._outcomes.put(error)

    async def _call(self, request: Request) -> Completion:
        import openai

        tries = self._config.endpoint.max_retries + 1
        answered_before = self._answered
        try:
            # The client's own limit is from byte to byte: this one ends an answer that only trickles.
            async with asyncio.timeout(tries * (self._config.endpoint.timeout_s + LONGEST_WAIT_S)):
                raw = await self._client.chat.completions.with_raw_response.create(
                    **_parameters(self._config, request)
                )
        except openai.APIStatusError as error:
            status, text = error.status_code, error.response.text
        except (openai.APIConnectionError, TimeoutError) as error:
            status, text = NO_STATUS, type(error.__cause__ or error).__name__
        else:
            self._answered += 1
            return self._completion(request, raw.text, raw.retries_taken + 1)
        # Outside of the handler, so that no traceback shows the client's error: its text may hold the key.
        if status in (NO_STATUS, *RETRIED) or status >= 500:
            reason = text if status == NO_STATUS else f"status {status}: {self._shown(text)}"
            return self._no_answer(request, tries, reason, alone=self._answered > answered_before)
        return self._refusal(request, status, text)

    def _completion(self, request: Request, text: str, attempts: int) -> Completion:
        try:
            answer = _Answer.model_validate_json(text)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]
            raise MghError(
                f"{self._url} did not answer with a chat completion ({reason['msg']} at "
                f"{'.'.join(map(str, reason['loc'])) or 'the start'}), but with: {self._shown(text)}\n"
                "Check engine.endpoint.base_url; it usually ends in /v1."
            ) from None
        choice = answer.choices[0]
        known = choice.finish_reason in get_args(FinishReason)
        return Completion(
            request.unit_id,
            choice.message.content or "",
            choice.finish_reason if known else "error",  # type: ignore[arg-type]
            tokens_in=answer.usage.prompt_tokens,
            tokens_out=answer.usage.completion_tokens,
            attempts=attempts,
            error="" if known else f"the endpoint ended with {choice.finish_reason!r}",
        )

    def _refusal(self, request: Request, status: int, text: str) -> Completion:
        """The end of a call that this status means. Raises MghError if it is not about this call alone."""
        message = self._shown(text)
        if status not in REFUSED:
            raise MghError(self._explain(status, message))
        self._refused += 1
        if self._refused >= MAX_FIRST_REFUSALS and not self._answered:
            raise MghError(
                f"{self._url} refused the first {self._refused} calls, the last with status {status}: "
                f"{message}\n"
                "Perhaps it knows no JSON schemas, or engine.model or the sampling does not suit it."
            )
        return Completion(request.unit_id, "", "refused", 0, 0, error=f"status {status}: {message}")

    def _no_answer(self, request: Request, tries: int, reason: str, alone: bool) -> Completion:
        """The end of a call whose tries are used up. Raises MghError unless it is `alone`: others were
        answered meanwhile."""
        message = f"endpoint {self._url} gave no answer after {tries} tries ({reason})"
        if not alone:
            raise MghError(f"{message}; everything finished is kept: run again when it is back")
        return Completion(request.unit_id, "", "error", 0, 0, attempts=tries, error=message)

    def _explain(self, status: int, message: str) -> str:
        variable = self._config.endpoint.api_key_env
        held = (
            f"the key in {variable}"
            if variable
            else "calls without a key (engine.endpoint.api_key_env is null)"
        )
        advice = {
            401: f"It does not accept {held}.",
            403: f"It does not permit this to {held}.",
            404: f"Check engine.endpoint.base_url and that it serves engine.model {self._config.model}.",
        }
        moved = (
            "It points elsewhere, which is not followed: set engine.endpoint.base_url to the final address."
        )
        other = moved if 300 <= status < 400 else "It takes no chat completions here."
        return f"{self._url} answered with status {status}: {message}\n{advice.get(status, other)}"

    def _shown(self, text: str) -> str:
        # Cut last: a key that is cut in two would not be found.
        scrubbed = text.replace(self._key, "(key)") if self._key else text
        return json.dumps(scrubbed[:SHOWN_CHARS], ensure_ascii=False)


def _open_client(config: EngineConfig, key: str) -> Any:
    import httpx2
    import openai

    async def only_what_is_needed(request: httpx2.Request) -> None:
        for name in [name for name in request.headers if name.lower() not in HEADERS]:
            del request.headers[name]
        if key:
            request.headers["authorization"] = f"Bearer {key}"

    http = httpx2.AsyncClient(
        timeout=config.endpoint.timeout_s,
        # A redirect or a proxy of the environment would bring texts and key to somebody that no one named.
        follow_redirects=False,
        trust_env=False,
        limits=httpx2.Limits(max_connections=config.max_in_flight),
        event_hooks={"request": [only_what_is_needed]},
    )
    return openai.AsyncOpenAI(
        base_url=config.endpoint.base_url,
        api_key="none",  # the hook above sets the real one
        max_retries=config.endpoint.max_retries,
        timeout=config.endpoint.timeout_s,
        http_client=http,
    )


def _parameters(config: EngineConfig, request: Request) -> dict[str, Any]:
    # vLLM's server and others take these two; those that do not refuse the key.
    extra: dict[str, Any] = {}
    if config.chat_template_kwargs:
        extra["chat_template_kwargs"] = config.chat_template_kwargs
    if request.sampling.top_k is not None:
        extra["top_k"] = request.sampling.top_k
    return {
        "model": config.model,
        "messages": request.messages,
        "max_tokens": request.sampling.max_tokens,
        "temperature": request.sampling.temperature,
        "top_p": request.sampling.top_p,
        "seed": request.seed,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": request.schema},
        },
        "extra_body": extra or None,
    }
