"""Which held-out records ask the same, so that each knows the right answers of the others. Needs no mteb."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, Self

from mgh_ds.records.schema import Record


class Question(NamedTuple):
    """A query under its instruction: what records that ask the same have in common."""

    instruction: str
    text: str

    @classmethod
    def of(cls, record: Record) -> Self:
        return cls(record.task.instruction, record.query)


def answers(records: Sequence[Record]) -> dict[Question, set[str]]:
    """All positives of each question, whichever record brings them."""
    found: defaultdict[Question, set[str]] = defaultdict(set)
    for record in records:
        found[Question.of(record)].add(record.positive)
    return dict(found)
