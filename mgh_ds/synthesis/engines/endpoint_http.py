"""One HTTP call to an OpenAI-compatible endpoint: where it goes, what it carries, what came back."""

import asyncio
import json
import os
from typing import Any
from urllib.parse import urlsplit

from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.config import EndpointConfig, EngineConfig
from mgh_ds.synthesis.engines.envelope import NO_STATUS, Answer, NoAnswer, read_reply
from mgh_ds.synthesis.engines.port import Messages, Request

PATH = "/chat/completions"


def check_endpoint(config: EndpointConfig) -> None:
    """Raises MghError for a base_url that is none or holds a secret, and for a key that is not there."""
    try:
        url = urlsplit(config.base_url)
        # Any @ counts: without // or with a slash in the password, no password would be found.
        secret = bool("@" in config.base_url or url.query or url.fragment)
        if not secret:
            _ = url.port  # raises ValueError for one that is none
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
    if config.api_key_env is not None:
        key = os.environ[config.api_key_env].strip()
        if not key or not key.isascii() or not key.isprintable():
            raise MghError(
                f"engine.endpoint.api_key_env: the key in {config.api_key_env} is blank or has characters "
                "that no header can carry (other than printable ASCII): copy it again"
            )


class HttpClient:
    """Sends requests to `engine.endpoint`, once each: no redirects, no proxies, no second try. Used within
    one event loop."""

    def __init__(self, config: EngineConfig) -> None:
        import httpx2

        self._config = config
        self._url = config.endpoint.base_url.rstrip("/") + PATH
        self.key = os.environ[config.endpoint.api_key_env].strip() if config.endpoint.api_key_env else ""
        self._failures = (httpx2.RequestError, TimeoutError)
        self._client = httpx2.AsyncClient(
            timeout=config.endpoint.timeout_s,
            # A redirect or a proxy of the environment would bring texts and key to somebody unnamed.
            follow_redirects=False,
            trust_env=False,
            limits=httpx2.Limits(max_connections=config.max_in_flight),
            headers={"content-type": "application/json", "accept": "application/json", "user-agent": "mgh-ds"}
            | ({"authorization": f"Bearer {self.key}"} if self.key else {}),
        )

    async def ask(self, request: Request) -> Answer | NoAnswer:
        """What the endpoint makes of a request. A lost connection and lost time are no answer either."""
        # ASCII, so that no text breaks it.
        body = json.dumps(body_of(self._config, request)).encode("ascii")
        try:
            # The client's own limit is from byte to byte: this one ends an answer that only trickles.
            async with asyncio.timeout(self._config.endpoint.timeout_s):
                response = await self._client.post(self._url, content=body)
        except self._failures as error:
            return NoAnswer(NO_STATUS, type(error).__name__)
        return read_reply(response.status_code, response.headers, response.content)

    async def close(self) -> None:
        await self._client.aclose()


def body_of(config: EngineConfig, request: Request) -> dict[str, Any]:
    """The JSON of a call. Sampling's `repetition_stop` is no part of the protocol and is left out."""
    body: dict[str, Any] = {
        "model": config.model,
        "messages": request.messages,
        "max_tokens": request.sampling.max_tokens,
        "temperature": request.sampling.temperature,
        "top_p": request.sampling.top_p,
        "seed": request.seed,
    }
    # vLLM's server and others take these two; those that do not refuse the key.
    if config.chat_template_kwargs:
        body["chat_template_kwargs"] = config.chat_template_kwargs
    if request.sampling.top_k is not None:
        body["top_k"] = request.sampling.top_k
    if config.endpoint.response_format == "json_schema":
        schema = {"name": "answer", "strict": True, "schema": request.schema}
        return body | {"response_format": {"type": "json_schema", "json_schema": schema}}
    body["messages"] = _with_schema(request.messages, request.schema)
    if config.endpoint.response_format == "json_object":
        body["response_format"] = {"type": "json_object"}
    return body


def _with_schema(messages: Messages, schema: dict[str, Any]) -> Messages:
    """The messages with the schema in words, for a server that is not given it otherwise."""
    *others, last = messages
    asked = "The answer is JSON alone, without any text around it. It follows this JSON schema:"
    return [*others, last | {"content": f"{last['content']}\n\n{asked}\n{json.dumps(schema)}"}]
