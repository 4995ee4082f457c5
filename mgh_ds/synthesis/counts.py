"""How much there is: units, accepted ones, tokens, and why others were refused; and how far that is to a
goal."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

from mgh_ds.synthesis.engines.port import Completion
from mgh_ds.synthesis.plan import SynthesisPlan
from mgh_ds.synthesis.units import SynthesisStage

NUMBERS = ("units", "accepted", "tokens_in", "tokens_out", "accepted_tokens_in", "accepted_tokens_out")


@dataclass
class Counts:
    """Sums over finished units. `reasons` counts the refused ones."""

    units: int = 0
    accepted: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    accepted_tokens_in: int = 0
    accepted_tokens_out: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def tokens_known(self) -> bool:
        """Whether the engine says how many tokens it reads and writes; some servers do not."""
        return bool(self.tokens_out or not self.accepted)

    def add(self, completion: Completion, reason: str) -> None:
        """Counts one unit; an empty `reason` says that it was accepted."""
        self.units += 1
        self.tokens_in += completion.tokens_in
        self.tokens_out += completion.tokens_out
        if reason:
            self.reasons[reason] += 1
        else:
            self.accepted += 1
            self.accepted_tokens_in += completion.tokens_in
            self.accepted_tokens_out += completion.tokens_out

    def add_counts(self, other: "Counts") -> None:
        for name in NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.reasons.update(other.reasons)

    def as_json(self) -> dict[str, Any]:
        """Plain values, the reasons sorted by name."""
        return {name: getattr(self, name) for name in NUMBERS} | {
            "reasons": dict(sorted(self.reasons.items()))
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Reads back `as_json`; other keys are left alone. Raises KeyError for a missing one."""
        return cls(**{name: values[name] for name in NUMBERS}, reasons=Counter(values["reasons"]))


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
