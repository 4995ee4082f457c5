"""What servers send, read as an answer or as what it is instead."""

import datetime
import email.utils
import json
from typing import Any

import pytest

from mgh_ds.synthesis.engines.envelope import Answer, NoAnswer, read_reply
from tests.synthesis.servers import DIALECTS, FAULTS, USAGE, completion, write

BODY = {
    "seed": 5,
    "messages": [{"role": "user", "content": "Write."}],
    "response_format": {"json_schema": {"schema": {"properties": {"query": {}}}}},
}


def read(answer: tuple[int, str, dict[str, str]]) -> Answer | NoAnswer:
    status, text, headers = answer
    return read_reply(status, headers, text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_is_an_answer(name: str) -> None:
    answer = read(DIALECTS[name](BODY))
    assert isinstance(answer, Answer)
    assert answer.finish_reason == "stop"
    assert write(BODY) in answer.text
    assert (answer.tokens_in, answer.tokens_out) == ((0, 0) if name == "no usage" else (7, 5))


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - {"cut body", "no reply"}))
def test_no_fault_is_an_answer(name: str) -> None:
    how, words = FAULTS[name]
    found = read(how(BODY))
    assert isinstance(found, NoAnswer)
    assert words in found.reason + found.said


@pytest.mark.parametrize(
    ("said", "known"),
    [
        *(
            (end, "stop")
            for end in ("stop", "STOP", "eos", "eos_token", "stop_sequence", "end_turn", "", None)
        ),
        *((end, "length") for end in ("length", "max_tokens", "MAX_TOKENS", "model_length")),
        *((end, "error") for end in ("content_filter", "tool_calls", "quarantined", "refused", 7)),
        *((end, end) for end in ("abort", "repetition")),
    ],
)
def test_ends_have_many_names(said: Any, known: str) -> None:
    answer = read(completion("{", said))
    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish_reason) == ("{", known)
    assert (repr(str(said)) in answer.error) is (known == "error")


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, (0, 0)),
        ({}, (0, 0)),
        ([3, 4], (0, 0)),
        ("many", (0, 0)),
        ({"prompt_tokens": 3}, (3, 0)),
        ({"prompt_tokens": None, "completion_tokens": 4}, (0, 4)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (0, 0)),
        ({"prompt_tokens": -1, "completion_tokens": "4"}, (0, 0)),
        ({"prompt_tokens": 3.0, "completion_tokens": 1e300}, (3, 0)),
        ({"input_tokens": 3, "output_tokens": 4}, (3, 4)),
    ],
)
def test_tokens_that_are_not_told_are_unknown(usage: Any, tokens: tuple[int, int]) -> None:
    answer = read(completion(usage=usage))
    assert isinstance(answer, Answer)
    assert (answer.tokens_in, answer.tokens_out) == tokens


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (429, {}, "slow"),
        (503, {"retry-after": "3"}, "slow"),
        (503, {}, "broken"),
        (500, {"retry-after": "3"}, "broken"),
        (408, {}, "broken"),
        (529, {}, "broken"),
        (400, {}, "no"),
        (401, {}, "no"),
        (403, {}, "no"),
        (404, {}, "no"),
        (301, {}, "no"),
    ],
)
def test_a_status_says_how_to_go_on(status: int, headers: dict[str, str], kind: str) -> None:
    found = read((status, "words", headers))
    assert isinstance(found, NoAnswer)
    assert (found.kind, found.status, found.said) == (kind, status, "words")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("no", 200),
        ({"message": "no"}, 200),
        ({"code": 429}, 429),
        ({"code": "502"}, 502),
        ({"code": None, "type": "rate_limit_exceeded"}, 429),
        ({"code": "context_length_exceeded", "status": 400}, 400),
        ({"code": 7}, 200),
    ],
)
def test_an_error_with_status_200_is_what_it_says_of_itself(error: Any, status: int) -> None:
    found = read((200, json.dumps({"error": error}), {}))
    assert isinstance(found, NoAnswer)
    assert found.status == status


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "200"}, 200),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "3", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "3", "retry-after-ms": "?"}, 3),
    ],
)
def test_a_wait_is_asked_for_in_many_ways(headers: dict[str, str], seconds: float | None) -> None:
    found = read((429, "", headers))
    assert isinstance(found, NoAnswer)
    assert found.retry_after_s == seconds


@pytest.mark.parametrize("zone", [datetime.UTC, None])
def test_a_wait_may_be_a_date(zone: datetime.tzinfo | None) -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=200)
    found = read((429, "", {"retry-after": email.utils.format_datetime(later.replace(tzinfo=zone))}))
    assert isinstance(found, NoAnswer)
    assert found.retry_after_s == pytest.approx(200, abs=3)


def test_a_model_that_declines_is_quoted() -> None:
    answer = read(completion(None, message={"refusal": "I would rather not"}))
    assert answer == Answer(
        "", "refused", USAGE["prompt_tokens"], USAGE["completion_tokens"], "I would rather not"
    )


def test_thoughts_are_no_answer_where_there_is_one() -> None:
    answer = read(completion("{}", message={"reasoning_content": "hm"}))
    assert isinstance(answer, Answer)
    assert answer.text == "{}"


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", "null", "1" * 5000, '{"choices": {"0": 1}}', '{"choices": [3]}']
)
def test_rubbish_is_odd(text: str) -> None:
    found = read((200, text, {}))
    assert isinstance(found, NoAnswer)
    assert found.kind == "odd"
    assert found.reason
