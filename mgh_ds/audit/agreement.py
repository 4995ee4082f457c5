"""How far a judge agrees with labels given by hand: `labelled.jsonl`, a small set of negatives in several
languages, half of them false ones, most of them hard to tell."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgh_ds.audit.statistics import wilson
from mgh_ds.records.subtypes import Kind

LABELLED = Path(__file__).with_name("labelled.jsonl")
# Below this kappa ("substantial" agreement begins at 0.61: Landis and Koch, Biometrics 33, 1977) verdicts are
# no base for decisions.
SOUND_KAPPA = 0.6
ENOUGH = 0.8  # of the labelled negatives, so many must be judged for a kappa


def is_sound(kappa: float | None) -> bool:
    """Whether a judge of this agreement is a base for decisions; one whose kappa is undefined is none."""
    return kappa is not None and kappa >= SOUND_KAPPA


@dataclass(frozen=True, slots=True)
class LabelledNegative:
    """A negative of which it is known whether it is a right answer to its query; `why` says so in words."""

    id: str
    language: str
    kind: Kind
    instruction: str
    query: str
    positive: str
    negative: str
    false_negative: bool
    why: str


def labelled_set() -> list[LabelledNegative]:
    """The bundled set, in the order of ids."""
    with LABELLED.open(encoding="utf-8") as file:
        return [LabelledNegative(**json.loads(line)) for line in file]


def agreement(found: Sequence[bool | None], labels: Sequence[bool]) -> dict[str, Any]:
    """Agreement of a judge's verdicts with labels; True is a false negative, and what is None was not
    judged and does not count.

    Accuracy with Wilson's interval, precision and recall of false negatives, and Cohen's kappa, (accuracy −
    chance) / (1 − chance), where chance is the agreement of two who know only how often to say yes. A ratio
    without a denominator is None, and so is kappa where too few were judged: what a judge leaves out may be
    what it would get wrong.
    """
    pairs = [(one, label) for one, label in zip(found, labels, strict=True) if one is not None]
    count = len(pairs)
    enough = count >= ENOUGH * len(labels) > 0
    both = sum(one and label for one, label in pairs)
    said, true = sum(one for one, _ in pairs), sum(label for _, label in pairs)
    right = sum(one == label for one, label in pairs)
    chance = (said * true + (count - said) * (count - true)) / count**2 if count else 1.0
    return {
        "items": len(labels),
        "judged": count,
        "accuracy": wilson(right, count) if count else None,
        "precision": _ratio(both, said),
        "recall": _ratio(both, true),
        "kappa": _ratio(right / count - chance, 1 - chance) if enough else None,
    }


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 6) if whole else None
