"""The engine port: what the worker asks of whoever writes the text. Two verbs, submit and poll."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mgh_ds.synthesis.config import Sampling

# What vLLM says of a finished request, and two ends of our own: the engine refused this one request, or died
# of it three times.
FinishReason = Literal["stop", "length", "abort", "error", "repetition", "refused", "quarantined"]
Messages = list[dict[str, str]]

PROBE = "probe"  # the ids of requests that are no units begin so


@dataclass(frozen=True, slots=True)
class Request:
    """One call: chat messages, the JSON schema that the answer must follow, and how to draw tokens.

    `seed` is derived from the unit. Engines that batch cannot promise the same text for it; prompts are what
    is reproducible.
    """

    unit_id: str
    messages: Messages
    schema: dict[str, Any]
    sampling: Sampling
    seed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """One call's end: the text as written, why it ended, and what it cost in tokens.

    `error` is the engine's own word where `finish_reason` is error, refused or quarantined. Tokens are 0
    where nothing was answered, and where the engine does not say how many there were.
    `attempts` counts submissions to an engine, the last one included.
    """

    unit_id: str
    text: str
    finish_reason: FinishReason
    tokens_in: int
    tokens_out: int
    attempts: int = 1
    error: str = ""

    @property
    def answered(self) -> bool:
        """Whether something was written, and so had tokens, whatever became of it."""
        return bool(self.text) or self.finish_reason not in ("refused", "error", "quarantined")


class EngineDied(Exception):
    """The engine is gone or hangs: it must be closed and opened again. What was in flight is lost."""


class Engine(Protocol):
    """Whoever writes the text. Not thread-safe; one worker owns it.

    `version` names engine and version for the provenance of rows, such as "vllm 0.32.0". `last_progress` is
    time.monotonic() of the last sign that it works (a token, a completion); the worker's watchdog reads it.
    """

    version: str
    last_progress: float

    def submit(self, requests: Sequence[Request]) -> None:
        """Takes requests without waiting for any. Raises EngineDied."""

    def poll(self, timeout_s: float) -> list[Completion]:
        """What has finished since the last call, in any order; waits up to `timeout_s` if nothing has.

        Raises EngineDied if the engine is gone, MghError for what no retry can mend: a refused schema, a
        refused key, a model without a chat template.
        """

    def close(self) -> None:
        """Ends the engine and all its processes at once, whatever it is doing; may be called twice."""
