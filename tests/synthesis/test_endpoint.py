"""The endpoint engine against servers that misbehave."""

import contextlib
import json
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.config import EndpointConfig, EngineConfig, Sampling
from mgh_ds.synthesis.engines.endpoint import MAX_FIRST_REFUSALS, EndpointEngine, check_endpoint
from mgh_ds.synthesis.engines.port import Completion, Request

KEY = "sk-very-secret-0123456789"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
Answer = tuple[int, str, dict[str, str]]


@dataclass
class Server:
    """A local server; `answer` takes the number of a call, from 0, and its body."""

    answer: Callable[[int, dict[str, Any]], Answer]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    url: str = ""
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.headers.append(headers)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            return self.answer(number, body)
        finally:
            with self._lock:
                self._now -= 1


@contextlib.contextmanager
def serving(answer: Callable[[int, dict[str, Any]], Answer]) -> Iterator[Server]:
    server = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, text, more = server.handle(body, headers)
            data = text.encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", **more}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # whom it was for has gone
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.block_on_close = False
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def completion(text: str = '{"a":"b"}', reason: str = "stop") -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    return 200, json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}), {}


def requests(count: int) -> list[Request]:
    messages = [{"role": "user", "content": "Write."}]
    return [
        Request(f"{index:032x}", messages, SCHEMA, Sampling(max_tokens=64, temperature=0.5), index)
        for index in range(count)
    ]


def run(
    server: Server,
    count: int = 1,
    max_in_flight: int = 8,
    chat_template_kwargs: dict[str, Any] | None = None,
    **endpoint: Any,
) -> list[Completion]:
    config = EngineConfig(
        kind="endpoint",
        model="some/model",
        chat_template_kwargs=chat_template_kwargs or {},
        max_in_flight=max_in_flight,
        endpoint=EndpointConfig(base_url=server.url, **{"max_retries": 1, "timeout_s": 5.0, **endpoint}),
    )
    engine = EndpointEngine(config)
    try:
        engine.submit(requests(count))
        finished: list[Completion] = []
        while len(finished) < count:
            finished += engine.poll(0.2)
        assert time.monotonic() - engine.last_progress < 5
        return sorted(finished, key=lambda one: one.unit_id)
    finally:
        engine.close()
        engine.close()


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MGH_TEST_KEY", KEY)
    return "MGH_TEST_KEY"


def test_a_call_carries_prompt_schema_sampling_seed_and_key_and_brings_text_and_tokens(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-other: secret\nauthorization: Bearer other")
    with serving(lambda *_: completion()) as server:
        (end,) = run(server, api_key_env=key)
    assert end == Completion(f"{0:032x}", '{"a":"b"}', "stop", 7, 5)
    (body,) = server.bodies
    assert (body["model"], body["seed"], body["max_tokens"], body["temperature"]) == (
        "some/model",
        0,
        64,
        0.5,
    )
    assert body["messages"] == [{"role": "user", "content": "Write."}]
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert body["response_format"]["json_schema"]["strict"] is True
    (headers,) = server.headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert {name for name in headers if name.startswith(("openai", "x-"))} <= {"x-stainless-raw-response"}


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(lambda *_: completion()) as server:
        run(server)
    assert "authorization" not in server.headers[0]


def test_too_many_requests_is_tried_again_and_the_tries_are_counted() -> None:
    with serving(lambda number, _: (429, "{}", {}) if number == 0 else completion()) as server:
        (end,) = run(server)
    assert (end.finish_reason, end.attempts, len(server.bodies)) == ("stop", 2, 2)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_at_once_and_is_never_shown(
    status: int, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}", "header": f"Bearer {KEY}"}})
    with (
        serving(lambda *_: (status, echo, {})) as server,
        pytest.raises(MghError, match=f"(?s){status}.*MGH_TEST_KEY") as error,
    ):
        run(server, api_key_env=key)
    assert len(server.bodies) == 1
    assert server.url in str(error.value)
    assert KEY not in "".join(traceback.format_exception(error.value)) + caplog.text
    assert "Incorrect API key" in str(error.value)


def test_a_key_on_the_edge_of_what_is_shown_is_not_shown_in_part(key: str) -> None:
    for blank in range(280, 300):
        text = "x" * blank + KEY
        with serving(lambda *_, text=text: (404, text, {})) as server, pytest.raises(MghError) as error:
            run(server, api_key_env=key)
        assert KEY[:6] not in str(error.value)


def test_an_unknown_model_is_named() -> None:
    with (
        serving(lambda *_: (404, '{"error": "no such model"}', {})) as server,
        pytest.raises(MghError, match=r"(?s)404.*no such model.*some/model"),
    ):
        run(server)


def test_a_server_that_always_fails_ends_the_run_with_the_number_of_tries() -> None:
    with (
        serving(lambda *_: (500, "broken", {})) as server,
        pytest.raises(MghError, match=r"no answer after 2 tries.*500.*broken.*kept"),
    ):
        run(server)
    assert len(server.bodies) == 2


@pytest.mark.parametrize("misbehave", ["fails", "hangs"])
def test_a_prompt_that_alone_gets_no_answer_ends_alone(misbehave: str) -> None:
    done = threading.Event()

    def fail_at_the_third(_: int, body: dict[str, Any]) -> Answer:
        if body["seed"] != 2:
            return completion()
        if misbehave == "hangs":
            done.wait()
        return 500, "it makes me ill", {}

    with serving(fail_at_the_third) as server:
        ends = run(server, count=5, timeout_s=0.5)
        done.set()
    assert [end.finish_reason for end in ends] == ["stop", "stop", "error", "stop", "stop"]
    assert (ends[2].text, ends[2].tokens_out, ends[2].attempts) == ("", 0, 2)
    assert "no answer after 2 tries" in ends[2].error
    assert ("it makes me ill" if misbehave == "fails" else "Timeout") in ends[2].error


def test_a_server_that_stops_answering_ends_the_run() -> None:
    with (
        serving(lambda number, _: completion() if number < 3 else (503, "down", {})) as server,
        pytest.raises(MghError, match=r"no answer after 1 tries.*503.*kept"),
    ):
        run(server, count=5, max_in_flight=1, max_retries=0)


def test_a_server_that_is_not_there_ends_the_run() -> None:
    with serving(lambda *_: completion()) as server:
        pass
    with pytest.raises(MghError, match=r"no answer after 1 tries.*ConnectError"):
        run(server, max_retries=0)


def test_a_server_that_never_answers_ends_the_run() -> None:
    done = threading.Event()

    def hang(*_: Any) -> Answer:
        done.wait()
        return completion()

    with serving(hang) as server:
        with pytest.raises(MghError, match=r"no answer after 1 tries.*Timeout"):
            run(server, timeout_s=0.3, max_retries=0)
        done.set()


@pytest.mark.parametrize(
    "text",
    [
        "<html>Hello!</html>",
        "[]",
        "null",
        '{"choices": []}',
        '{"choices": [{"message": "no"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}',
        '{"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}',
        "",
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/html"])
def test_rubbish_is_named_as_such(text: str, kind: str) -> None:
    with (
        serving(lambda *_: (200, text, {"content-type": kind})) as server,
        pytest.raises(MghError, match=r"(?s)127\.0\.0\.1.*did not answer with a chat completion"),
    ):
        run(server)


def test_a_redirect_is_not_followed(key: str) -> None:
    with serving(lambda *_: completion()) as other:
        for status in (301, 302, 307, 308):
            moved = (status, "", {"location": f"{other.url}/chat/completions"})
            with (
                serving(lambda *_, moved=moved: moved) as server,
                pytest.raises(MghError, match=f"(?s){status}.*not followed"),
            ):
                run(server, api_key_env=key)
    assert other.bodies == []


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda *_: completion()) as proxy, serving(lambda *_: completion()) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        run(server)
    assert (len(server.bodies), len(proxy.bodies)) == (1, 0)


def test_a_refused_call_ends_alone() -> None:
    def refuse_the_third(_: int, body: dict[str, Any]) -> Answer:
        return (400, '{"error": "too long"}', {}) if body["seed"] == 2 else completion()

    with serving(refuse_the_third) as server:
        ends = run(server, count=5)
    assert [end.finish_reason for end in ends] == ["stop", "stop", "refused", "stop", "stop"]
    assert "too long" in ends[2].error


def test_a_server_that_refuses_everything_ends_the_run() -> None:
    with (
        serving(lambda *_: (400, '{"error": "response_format is not supported"}', {})) as server,
        pytest.raises(MghError, match=f"(?s)refused the first {MAX_FIRST_REFUSALS} calls.*response_format"),
    ):
        run(server, count=50, max_in_flight=1)
    assert len(server.bodies) < 50


def test_no_more_calls_at_a_time_than_configured() -> None:
    def slow(*_: Any) -> Answer:
        time.sleep(0.03)
        return completion()

    with serving(slow) as server:
        assert len(run(server, count=24, max_in_flight=3)) == 24
    assert server.most_at_once == 3


def test_arguments_of_the_chat_template_are_sent_only_where_there_are_any() -> None:
    for arguments in ({}, {"enable_thinking": False}):
        with serving(lambda *_: completion()) as server:
            run(server, chat_template_kwargs=arguments)
        assert server.bodies[0].get("chat_template_kwargs", {}) == arguments
        assert ("chat_template_kwargs" in server.bodies[0]) is bool(arguments)


@pytest.mark.parametrize(("said", "known"), [("length", "length"), ("content_filter", "error")])
def test_ends_keep_their_reason(said: str, known: str) -> None:
    with serving(lambda *_: completion("{", said)) as server:
        (end,) = run(server)
    assert (end.text, end.finish_reason) == ("{", known)
    assert (said in end.error) is (known == "error")


def test_what_finished_before_a_failure_is_handed_over_first() -> None:
    with serving(lambda _, body: completion() if body["seed"] == 0 else (403, "", {})) as server:
        endpoint = EndpointConfig(base_url=server.url)
        engine = EndpointEngine(EngineConfig(kind="endpoint", model="m", max_in_flight=1, endpoint=endpoint))
        try:
            engine.submit(requests(2))
            while len(server.bodies) < 2:
                time.sleep(0.01)
            time.sleep(0.1)
            assert [end.finish_reason for end in engine.poll(1.0)] == ["stop"]
            for _ in range(2):
                with pytest.raises(MghError, match="403"):
                    engine.poll(1.0)
        finally:
            engine.close()


def test_close_does_not_wait_for_calls() -> None:
    done = threading.Event()

    def hang(*_: Any) -> Answer:
        done.wait()
        return completion()

    with serving(hang) as server:
        endpoint = EndpointConfig(base_url=server.url)
        engine = EndpointEngine(EngineConfig(kind="endpoint", model="m", endpoint=endpoint))
        engine.submit(requests(20))
        while not server.bodies:
            time.sleep(0.01)
        engine.close()
        assert not done.is_set()
        done.set()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"http://user:{KEY}@host/v1", "password"),
        (f"https://host/v1?key={KEY}", "query"),
        (f"user:{KEY}@host/v1", "password"),
        (f"http://user:a/{KEY}@host/v1", "password"),
        ("host:8000/v1", "not an http address"),
        ("ftp://host/v1", "not an http address"),
        ("http:///v1", "not an http address"),
        ("http://[::1/v1", "not a URL"),
    ],
)
def test_addresses_that_hold_secrets_or_are_none_are_refused(url: str, words: str) -> None:
    with pytest.raises(MghError, match=words) as error:
        check_endpoint(EndpointConfig(base_url=url))
    assert KEY not in str(error.value)


def test_a_key_whose_variable_is_not_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MGH_TEST_KEY", raising=False)
    with pytest.raises(MghError, match="MGH_TEST_KEY"):
        check_endpoint(EndpointConfig(api_key_env="MGH_TEST_KEY"))
