"""What a relabel pass did to negatives: as a record's `source` says it, and summed up over records.

`relabelled_levels` holds, for each negative that the record had, its level before and after ("2>3"); a
negative that went is "2>dropped", and one without a level "none". `relabelled_scores` holds their scores and
`relabelled_positive_score` the positive's, on the scale of the model `relabelled_by`.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from mgh_ds.records.levels import LEVELS
from mgh_ds.records.rows import printable

NO_LEVEL, DROPPED = "none", "dropped"
PREFIX = "relabelled_"
_BEFORE = [*map(str, LEVELS), NO_LEVEL]
_AFTER = [*_BEFORE, DROPPED]
_CHANGE = re.compile(rf"({'|'.join(_BEFORE)})>({'|'.join(_AFTER)})")


def is_note(key: str) -> bool:
    """Whether a key of `source` is one that a relabel pass noted."""
    return key.startswith(PREFIX)


class Change(NamedTuple):
    """What became of a negative; levels as they stand in notes."""

    before: str
    after: str
    score: float


class Relabelled(NamedTuple):
    """What became of a record's negatives, in the order in which it had them."""

    by: str
    changes: Sequence[Change]
    positive_score: float


def notes(relabelled: Relabelled, sha256: str) -> dict[str, str]:
    """For the `source` of a record that had negatives; `sha256` is the fingerprint of the model."""
    return {
        f"{PREFIX}by": relabelled.by,
        f"{PREFIX}by_sha256": sha256,
        f"{PREFIX}levels": " ".join(f"{change.before}>{change.after}" for change in relabelled.changes),
        f"{PREFIX}scores": " ".join(f"{change.score:.4f}" for change in relabelled.changes),
        f"{PREFIX}positive_score": f"{relabelled.positive_score:.4f}",
    }


def read_notes(source: Mapping[str, str]) -> Relabelled | None:
    """What `notes` wrote; None where nothing was relabelled, or the keys mean something else."""
    words = source.get(f"{PREFIX}levels", "").split()
    changed = [_CHANGE.fullmatch(word) for word in words]
    try:
        scores = [float(word) for word in source.get(f"{PREFIX}scores", "").split()]
        positive_score = float(source[f"{PREFIX}positive_score"])
    except (KeyError, ValueError):
        return None
    if not words or len(scores) != len(words):
        return None
    changes = [
        Change(found[1], found[2], score) for found, score in zip(changed, scores, strict=True) if found
    ]
    if len(changes) < len(words):
        return None
    return Relabelled(source.get(f"{PREFIX}by", "not stated"), changes, positive_score)


@dataclass
class Relabelling:
    """Sums over records."""

    by: Counter[str] = field(default_factory=Counter)  # records
    _levels: Counter[tuple[str, str]] = field(default_factory=Counter)
    _scores: dict[tuple[str, str], float] = field(default_factory=dict)  # sums
    _positives: float = 0.0

    def add(self, source: Mapping[str, str]) -> None:
        """A record's `source`; one that was not relabelled counts for nothing."""
        found = read_notes(source)
        if found is None:
            return
        self.by[found.by] += 1
        self._positives += found.positive_score
        for before, after, score in found.changes:
            self._levels[before, after] += 1
            self._scores[before, after] = self._scores.get((before, after), 0.0) + score

    def as_json(self) -> dict[str, Any]:
        """How many negatives went from which level to which, and mean scores by level before and after."""
        befores = [level for level in _BEFORE if self._count(before=level)]
        afters = [level for level in _AFTER if self._count(after=level)]
        return {
            "records": self.by.total(),
            "by": dict(self.by.most_common()),
            "levels": {
                before: {after: self._levels[before, after] for after in afters} for before in befores
            },
            "mean_score_before": {level: self._mean(before=level) for level in befores},
            "mean_score_after": {level: self._mean(after=level) for level in afters},
            "mean_positive_score": round(self._positives / self.by.total(), 4) if self.by else None,
        }

    def _count(self, **which: str) -> float:
        return _total(self._levels, **which)

    def _mean(self, **which: str) -> float:
        return round(_total(self._scores, **which) / self._count(**which), 4)


def _total(
    values: Mapping[tuple[str, str], float], before: str | None = None, after: str | None = None
) -> float:
    return sum(value for key, value in values.items() if before in (None, key[0]) and after in (None, key[1]))


def relabelling_table(found: dict[str, Any]) -> Table:
    """The sums of `Relabelling.as_json` for people: a row for each level before, a column for each after."""
    by = ", ".join(printable(name) for name in found["by"])
    title = (
        f"{found['records']:,} records relabelled by {by}; "
        f"their positives score {found['mean_positive_score']:.3f} on average"
    )
    table = Table(title=Text(title), title_justify="left")
    afters = list(found["mean_score_after"])
    for name in ("before \\ after", *afters, "mean score"):
        table.add_column(Text(name), justify="right")
    for before, counts in found["levels"].items():
        cells = [f"{counts[after]:,}" for after in afters]
        table.add_row(before, *cells, f"{found['mean_score_before'][before]:.3f}")
    table.add_section()
    table.add_row("mean score", *(f"{score:.3f}" for score in found["mean_score_after"].values()), "")
    return table
