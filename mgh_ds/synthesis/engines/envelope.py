"""What an OpenAI-compatible server sends, read: the answer's text, why it ended and what it cost, or what
came instead of an answer.

Servers spell the same things in many ways, and what is no answer may come with status 200. Pure functions of
status, headers and body; what follows from them is the engine's affair.
"""

import datetime
import email.utils
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mgh_ds.synthesis.engines.port import FinishReason

STOPS = (
    *("stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "completed", "complete"),
    "",  # not named: whether the answer is whole is seen when its JSON is read
)
CUTS = ("length", "max_tokens", "max_output_tokens", "max_length", "model_length", "token_limit")
ENDS: dict[str, FinishReason] = {
    **dict.fromkeys(STOPS, "stop"),
    **dict.fromkeys(CUTS, "length"),
    "abort": "abort",
    "repetition": "repetition",
}
BROKEN = (408, 409, 425)  # as are 5xx and lost connections: the same call may be answered another time
NO_STATUS = 0  # the connection was lost, or time ran out
LIMITS = ("rate_limit", "too_many_requests")  # in an error's type or code
STREAM_STARTS = ("data:", "event:", ":", "id:", "retry:")
MAX_TOKENS = 2**31 - 1  # that a column of counts holds

# slow     too many requests: ask again, later
# broken   something failed on the way
# odd      it speaks of success, but this is no answer
# no       it will not answer this call, or no call at all
Kind = Literal["slow", "broken", "odd", "no"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote. Tokens are 0 where the server does not say how many; `error` explains a
    finish_reason of error or refused."""

    text: str
    finish_reason: FinishReason
    tokens_in: int = 0
    tokens_out: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """What came instead of an answer.

    status          of HTTP, or that of an error object which came with another; NO_STATUS if nothing came
    said            the server's words as they came
    reason          what is wrong with them, if the status does not say it
    retry_after_s   how long the server asks to wait; None if it does not
    """

    status: int
    said: str
    reason: str = ""
    retry_after_s: float | None = None

    @property
    def kind(self) -> Kind:
        if self.status == 429 or (self.status == 503 and self.retry_after_s is not None):
            return "slow"
        if self.status in (NO_STATUS, *BROKEN) or self.status >= 500:
            return "broken"
        return "odd" if 200 <= self.status < 300 else "no"


class _OddError(Exception):
    """A body that is no chat completion; its text is the reason."""


def read_reply(status: int, headers: Mapping[str, str], body: bytes) -> Answer | NoAnswer:
    """Reads a response. Names of `headers` are found in lower case."""
    said = body.decode("utf-8-sig", "replace")
    wait_s = _retry_after_s(headers)
    if not 200 <= status < 300:
        return NoAnswer(status, said, retry_after_s=wait_s)
    try:
        envelope = _envelope(said)
        if error := envelope.get("error"):
            return NoAnswer(_status_of(error, status), said, "it is an error", wait_s)
        return _answer(envelope)
    except _OddError as odd:
        return NoAnswer(status, said, str(odd), wait_s)


def _envelope(said: str) -> dict[str, Any]:
    if said.lstrip().startswith(STREAM_STARTS):
        return _joined(said)
    return _object(said)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise _OddError("it is not JSON, or not all of it") from None
    if not isinstance(value, dict):
        raise _OddError("it is no JSON object")
    return value


def _joined(stream: str) -> dict[str, Any]:
    """The events of a stream that nobody asked for, as the envelope that they are pieces of."""
    text, thoughts, finish, usage, ended = "", "", None, None, False
    # No splitlines: it would split at characters that a JSON string may hold.
    for line in stream.replace("\r", "\n").split("\n"):
        if not line.startswith("data:"):
            continue
        if line[5:].strip() == "[DONE]":
            ended = True
            break
        event = _object(line[5:])
        if event.get("error"):
            return event
        usage = event.get("usage") or usage
        choice = _first(event.get("choices"))
        piece = choice.get("delta") or choice.get("message")
        if isinstance(piece, dict):
            text += _text(piece.get("content"))
            thoughts += _thoughts(piece)
        finish = choice.get("finish_reason") or finish
    if not ended and finish is None:
        raise _OddError("it is a stream that breaks off")
    message = {"content": text, "reasoning_content": thoughts}
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


def _answer(envelope: dict[str, Any]) -> Answer:
    choice = _first(envelope.get("choices"))
    if not choice:
        raise _OddError("it has no choices")
    message = choice.get("message", {"content": choice["text"]} if "text" in choice else None)
    if not isinstance(message, dict):
        raise _OddError("its choice has no message")
    end = str(choice.get("finish_reason") or "").lower()
    if choice.get("error") or end == "error":
        raise _OddError("its choice is an error")
    usage = envelope.get("usage")
    tokens_in = _tokens(usage, "prompt_tokens", "input_tokens")
    tokens_out = _tokens(usage, "completion_tokens", "output_tokens")
    text = _text(message.get("content"))
    if not text.strip():
        if refusal := message.get("refusal"):
            return Answer("", "refused", tokens_in, tokens_out, str(refusal))
        # Some servers take the JSON after a thought for a part of the thought.
        text = _thoughts(message) or text
    if end not in ENDS:
        return Answer(text, "error", tokens_in, tokens_out, f"the endpoint ended with {end!r}")
    return Answer(text, ENDS[end], tokens_in, tokens_out)


def _first(choices: object) -> dict[str, Any]:
    """The first choice, or an empty one."""
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    return {}


def _text(content: object) -> str:
    """The content of a message: a string, or a list of parts of which some are text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _OddError("its content is no text")
    texts = (part.get("text") if isinstance(part, dict) else part for part in content)
    return "".join(text for text in texts if isinstance(text, str))


def _thoughts(message: dict[str, Any]) -> str:
    found = message.get("reasoning_content") or message.get("reasoning")
    return found if isinstance(found, str) else ""


def _tokens(usage: object, *names: str) -> int:
    """The count under the first of `names` that has one, or 0."""
    values = [usage.get(name) for name in names] if isinstance(usage, dict) else []
    counts = (int(value) for value in values if isinstance(value, int | float) and 0 < value <= MAX_TOKENS)
    return next(counts, 0)


def _status_of(error: object, status: int) -> int:
    """The HTTP status that an error object names, or `status`."""
    if not isinstance(error, dict):
        return status
    names = [str(error.get(name) or "").lower() for name in ("code", "status", "type")]
    codes = [int(name) for name in names if name.isascii() and name.isdigit() and len(name) == 3]
    if any(limit in name for name in names for limit in LIMITS):
        codes = [429]
    return next((code for code in codes if code >= 400), status)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, given in seconds, milliseconds, or as a date."""
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit_s
        except ValueError:
            seconds = _seconds_until(value)
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    return None


def _seconds_until(date: str) -> float:
    try:
        when = email.utils.parsedate_to_datetime(date)
    except ValueError:
        return math.nan
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return (when - datetime.datetime.now(datetime.UTC)).total_seconds()
