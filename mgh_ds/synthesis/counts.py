"""How much there is: units, accepted ones, tokens, and why others were refused; and how far that is to a
goal."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

from mgh_ds.common.token_counts import in_words
from mgh_ds.synthesis.engines.port import Completion
from mgh_ds.synthesis.plan import SynthesisPlan
from mgh_ds.synthesis.units import SynthesisStage

NUMBERS = ("units", "accepted", "tokens_in", "tokens_out", "accepted_tokens_in", "accepted_tokens_out")
COUNTED = ("answered", "counted_in", "counted_out")


@dataclass
class Counts:
    """Sums over finished units.

    `reasons` counts the refused ones. `counted_in` and `counted_out` count those of the `answered` ones of
    which the engine said how many tokens prompt and answer have; some servers do not.
    """

    units: int = 0
    accepted: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    accepted_tokens_in: int = 0
    accepted_tokens_out: int = 0
    answered: int = 0
    counted_in: int = 0
    counted_out: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def said_in(self) -> str:
        """The tokens of the prompts, in words."""
        return in_words(self.tokens_in, self.counted_in, self.answered)

    @property
    def said_out(self) -> str:
        """The tokens of the answers, in words."""
        return in_words(self.tokens_out, self.counted_out, self.answered)

    @property
    def out_per_accepted(self) -> float | None:
        """Tokens written for each accepted answer; None if nothing was accepted, or not all were counted."""
        if not self.accepted or self.counted_out < self.answered:
            return None
        return self.tokens_out / self.accepted

    def add(self, completion: Completion, reason: str) -> None:
        """Counts one unit; an empty `reason` says that it was accepted."""
        self.units += 1
        self.tokens_in += completion.tokens_in
        self.tokens_out += completion.tokens_out
        if completion.answered:
            self.answered += 1
            self.counted_in += completion.tokens_in > 0
            self.counted_out += completion.tokens_out > 0
        if reason:
            self.reasons[reason] += 1
        else:
            self.accepted += 1
            self.accepted_tokens_in += completion.tokens_in
            self.accepted_tokens_out += completion.tokens_out

    def add_counts(self, other: "Counts") -> None:
        for name in NUMBERS + COUNTED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.reasons.update(other.reasons)

    def as_json(self) -> dict[str, Any]:
        """Plain values, the reasons sorted by name."""
        return {name: getattr(self, name) for name in NUMBERS + COUNTED} | {
            "reasons": dict(sorted(self.reasons.items()))
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Reads back `as_json`; other keys are left alone. Raises KeyError for a missing one.

        Earlier versions did not note how many answers were counted: all that were accepted, or none.
        """
        accepted = values["accepted"]
        earlier = dict(zip(COUNTED, (accepted, *2 * [accepted if values["tokens_out"] else 0]), strict=True))
        numbers = {name: values[name] for name in NUMBERS} | {
            name: values.get(name, earlier[name]) for name in COUNTED
        }
        return cls(**numbers, reasons=Counter(values["reasons"]))


def goal_of(plan: SynthesisPlan, stage: SynthesisStage, shard: int | None = None) -> int:
    """What is to be reached: answers in stage 1; samples or tokens in stage 2. Each shard has its own part of
    it, so that none waits for another."""
    budget = plan.config.samples.budget
    total = plan.config.tasks.calls if stage == "tasks" else budget.samples or budget.tokens or 0
    if shard is None:
        return total
    return total // plan.config.shards + (shard < total % plan.config.shards)


def progress_of(plan: SynthesisPlan, stage: SynthesisStage, counts: Counts) -> int:
    """How far the counts are towards the goal, in the goal's unit."""
    budget = plan.config.samples.budget
    if stage == "tasks" or budget.tokens is None:
        return counts.accepted
    return counts.accepted_tokens_out + (counts.accepted_tokens_in if budget.count_prompt else 0)
