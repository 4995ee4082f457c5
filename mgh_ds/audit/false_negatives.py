"""False negatives: negatives that are right answers to their query. Only a judge says so: a cross-encoder
(`cross_encoder.py`), or a language model (`mgh-ds synth judge`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mgh_ds.audit.inputs import EXAMPLES, Bools, Int64s, Progress, example_of
from mgh_ds.audit.statistics import shares_by_level
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.schema import Record

# Who judged, in the metadata of `decisions.parquet`; not there if nobody did.
JUDGE = b"mgh_ds.judge"


@dataclass(frozen=True)
class Verdicts:
    """What a judge says of the negatives of all records.

    judge      who it is and by which rule it decides, in words
    found      whether the negative of a level is a right answer, bool [records, levels]
    judged     whether the judge said anything of it, bool [records, levels]; `found` is False elsewhere
    agreement  with the labelled set, as `agreement.agreement` gives it
    reasons    of some that were found, the clearest first: (row, place of the level) → the judge's words
    cost       calls, tokens and answers without a verdict; None for a judge that costs no calls
    """

    judge: str
    found: Bools
    judged: Bools
    agreement: Mapping[str, Any]
    reasons: Mapping[tuple[int, int], str] = field(default_factory=dict)
    cost: Mapping[str, Any] | None = None


# Called with all records and the rows that were sampled; a judge that has said its verdicts earlier may know
# of others.
Judge = Callable[[Sequence[Record], Int64s, Progress], Verdicts]


def no_verdicts(count: int) -> Bools:
    """Nothing found, or nothing judged, bool [count, levels]."""
    return np.zeros((count, len(LEVELS)), np.bool_)


def false_negatives(records: Sequence[Record], verdicts: Verdicts | None) -> dict[str, Any]:
    """The share of false negatives by level, with Wilson's interval, and who says so; without a judge no
    figure at all."""
    if verdicts is None:
        return {"judge": None}
    examples = list(verdicts.reasons.items())[:EXAMPLES]
    return {
        "judge": verdicts.judge,
        "judged": int(verdicts.judged.sum()),
        "found": int(verdicts.found.sum()),
        **shares_by_level(verdicts.found, verdicts.judged),
        "agreement": dict(verdicts.agreement),
        "cost": None if verdicts.cost is None else dict(verdicts.cost),
        "examples": [
            example_of(records[row], level) | {"reason": reason} for (row, level), reason in examples
        ],
    }
