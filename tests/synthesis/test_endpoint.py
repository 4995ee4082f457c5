"""The endpoint engine against servers that misbehave."""

import json
import logging
import threading
import time
import traceback
from typing import Any

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.config import EndpointConfig, EngineConfig, Sampling
from mgh_ds.synthesis.engines import endpoint as endpoint_module
from mgh_ds.synthesis.engines import pace
from mgh_ds.synthesis.engines.endpoint import MAX_FIRST_REFUSALS, EndpointEngine
from mgh_ds.synthesis.engines.endpoint_http import check_endpoint
from mgh_ds.synthesis.engines.port import Completion, Request
from tests.synthesis.servers import FAULTS, Answer, Limited, Server, completion, failing, serving

KEY = "sk-very-secret-0123456789"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


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
    ends: list[Completion] | None = None,
    **endpoint: Any,
) -> list[Completion]:
    """What became of `count` calls, in their order; `ends` has them as they come, for a run that fails."""
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
        finished = [] if ends is None else ends
        while len(finished) < count:
            finished += engine.poll(0.2)
        assert time.monotonic() - engine.last_progress < 5
        return sorted(finished, key=lambda one: one.unit_id)
    finally:
        engine.close()
        engine.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once."""
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_S", 0.005)
    monkeypatch.setattr(pace, "FIRST_PAUSE_S", 0.005)


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
        '{"choices": [{"message": {"content": {"a": "b"}}, "finish_reason": "stop"}]}',
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


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_answer_is_asked_again_and_then_ends_alone_with_the_servers_words(fault: str) -> None:
    how, words = FAULTS[fault]
    with serving(failing(how, lambda body: body["seed"] == 2)) as server:
        ends = run(server, count=4, max_in_flight=1)
    assert [end.finish_reason == "stop" for end in ends] == [True, True, False, True]
    refused = ends[2]
    assert refused.finish_reason in ("refused", "error")
    assert words in refused.error
    assert (refused.text, refused.tokens_out, refused.attempts) == ("", 0, 2)
    assert refused.error.startswith("no answer after 2 tries")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_answer_once_costs_a_try(fault: str) -> None:
    how, _ = FAULTS[fault]
    failed: set[int] = set()

    def fail_first(body: dict[str, Any]) -> bool:
        first = body["seed"] in (1, 3) and body["seed"] not in failed
        failed.add(body["seed"])
        return first

    with serving(failing(how, fail_first)) as server:
        ends = run(server, count=5, max_in_flight=1)
    assert [(end.finish_reason, end.attempts) for end in ends] == [("stop", 1), ("stop", 2)] * 2 + [
        ("stop", 1)
    ]


@pytest.mark.parametrize("fault", ["error 500", "moderated", "web page"])
@pytest.mark.parametrize("seed", [0, 2])
def test_the_first_and_the_last_prompt_may_be_at_fault(fault: str, seed: int) -> None:
    how, words = FAULTS[fault]
    with serving(failing(how, lambda body: body["seed"] == seed)) as server:
        ends = run(server, count=3, max_in_flight=1)
    assert [end.finish_reason for end in ends].count("stop") == 2
    assert words in ends[seed].error


def test_what_is_asked_again_is_answered_however_it_ends() -> None:
    """A filter that strikes by chance strikes what was good before, too."""

    def answer(_: int, body: dict[str, Any]) -> Answer:
        if body["seed"] == 2:
            return 500, "it makes me ill", {}
        again = sum(one["seed"] == body["seed"] for one in server.bodies) > 1
        return completion("", "content_filter") if again else completion()

    with serving(answer) as server:
        ends = run(server, count=4, max_in_flight=1)
    assert [end.finish_reason for end in ends] == ["stop", "stop", "error", "stop"]
    assert "it makes me ill" in ends[2].error


def test_what_refuses_everything_from_some_time_on_costs_no_unit(key: str) -> None:
    ends: list[Completion] = []
    with (
        serving(lambda number, _: completion() if number < 3 else (401, f"no {KEY}", {})) as server,
        pytest.raises(MghError, match=r'(?s)401: "no \(key\)".*MGH_TEST_KEY.*answered before') as error,
    ):
        run(server, count=8, max_in_flight=2, api_key_env=key, ends=ends)
    assert [end.finish_reason for end in ends] == ["stop"] * 3
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "headers", [{}, {"retry-after": "0"}, {"retry-after": "0.01"}, {"retry-after-ms": "5"}]
)
def test_too_many_requests_slow_all_calls_down_and_refuse_none(headers: dict[str, str]) -> None:
    limited = Limited(0.004, headers)
    with serving(limited) as server:
        ends = run(server, count=40, max_in_flight=40, max_retries=0)
    assert {end.finish_reason for end in ends} == {"stop"}
    assert limited.refused
    assert len(server.bodies) == 40 + limited.refused == sum(end.attempts for end in ends)
    assert len(server.bodies) < 200, "it asks about as often as it may"


@pytest.mark.parametrize("status", [429, 503])
def test_a_limit_without_end_ends_the_run(status: int) -> None:
    wait = {"retry-after": "200"}
    with serving(lambda *_: (status, '{"error": "quota used up"}', wait)) as server:
        with pytest.raises(MghError, match=r"no call for 200 s .*quota used up.*kept.*patience_s"):
            run(server, patience_s=100)
        assert len(server.bodies) == 1
        wait["retry-after"] = "soon"
        wait |= {"retry-after-ms": "20"} if status == 503 else {}
        with pytest.raises(MghError, match=r"no call for 0 s .*quota used up"):
            run(server, patience_s=0.1)
        assert len(server.bodies) > 2


@pytest.mark.parametrize("how", ["json_schema", "json_object", "prompt"])
def test_the_schema_is_sent_in_the_field_or_in_the_prompt(how: str) -> None:
    with serving(lambda *_: completion()) as server:
        run(server, response_format=how)
    (body,) = server.bodies
    assert body.get("response_format", {"type": "prompt"})["type"] == how
    said = body["messages"][-1]["content"]
    assert said == "Write." if how == "json_schema" else said.endswith("\n" + json.dumps(SCHEMA))


def test_a_refused_schema_names_the_setting_that_helps() -> None:
    refused = (400, '{"error": "response_format json_schema is not supported"}', {})
    with (
        serving(lambda *_: refused) as server,
        pytest.raises(MghError, match=r"(?s)json_schema is not supported.*engine\.endpoint\.response_format"),
    ):
        run(server)


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
    with serving(lambda number, _: completion() if number == 0 else (403, "", {})) as server:
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


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/v1", "http://127.0.0.1:abc/v1", "http://[::1/v1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(MghError, match=r"engine\.endpoint\.base_url is not a URL"):
        check_endpoint(EndpointConfig(base_url=url))


@pytest.mark.parametrize("value", ["sk-ключ", "sk-a\nb", " "])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MGH_TEST_KEY", value)
    with pytest.raises(MghError, match="MGH_TEST_KEY is blank or has characters") as error:
        check_endpoint(EndpointConfig(api_key_env="MGH_TEST_KEY"))
    assert "sk-" not in str(error.value)
