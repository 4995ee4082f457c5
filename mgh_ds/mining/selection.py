"""Which of a record's candidates become its negatives, and at which levels.

The filters are those of NV-Retriever (arXiv 2407.15831, section 3.2): a candidate that scores nearly as high
as the positive is probably one. Scores are cosines or, where a cross-encoder rescored the candidates, its
probabilities.
"""

from collections import Counter
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mgh_ds.common.errors import MghError
from mgh_ds.records.levels import HARDEST, LEVELS
from mgh_ds.records.schema import MAX_NEGATIVES

Floats = npt.NDArray[np.floating]
BORDERS = len(LEVELS) - 1


class Chosen(NamedTuple):
    """A candidate that became a negative."""

    place: int  # among the candidates; its rank is place + 1
    level: int | None


@dataclass(frozen=True)
class Selection:
    """What is asked of negatives. Ranks count from 1, known positives and the record's own texts left out.

    negatives         how many a record gets, with levels of each level; those with the highest scores
    rank_min          the first rank that may be chosen
    relative_max      the highest share of the positive's score (TopK-PercPos)
    absolute_margin   by how much a score must be below the positive's (TopK-MarginPos)
    max_score         the highest score (TopK-Abs)
    bands             shares of the positive's score at which levels 2, 3 and 4 begin
    level_ranks       the last ranks of levels 4, 3 and 2; what comes after is of level 1
    drop_unmined      records that get no negative are left out

    Raises MghError for what contradicts itself.
    """

    negatives: int = 4
    rank_min: int = 1
    relative_max: float | None = 0.95
    absolute_margin: float | None = None
    max_score: float | None = None
    bands: tuple[float, ...] | None = None
    level_ranks: tuple[int, ...] | None = None
    drop_unmined: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, float) and not np.isfinite(number):
                    raise MghError(f"--{field.name.replace('_', '-')} must be finite, found {number}")
        if self.bands and self.level_ranks:
            raise MghError("--bands and --level-ranks both say what a level is: give one of them")
        for name, borders in (("--bands", self.bands), ("--level-ranks", self.level_ranks)):
            if borders and (len(borders) != BORDERS or sorted(set(borders)) != list(borders)):
                raise MghError(
                    f"{name} takes {BORDERS} numbers that grow, found {' '.join(map(str, borders))}"
                )
        if self.level_ranks and self.level_ranks[0] < 1:
            raise MghError(f"--level-ranks counts from 1, found {self.level_ranks[0]}")
        if not 1 <= self.most <= MAX_NEGATIVES:
            each = " of each level" if self.graded else ""
            raise MghError(
                f"--negatives is {self.negatives}{each}; a record may get 1 to {MAX_NEGATIVES} in all"
            )
        if self.rank_min < 1:
            raise MghError(f"--rank-min is {self.rank_min}; ranks count from 1")
        if self.level_ranks and self.level_ranks[0] < self.rank_min:
            raise MghError(
                f"--level-ranks ends level {HARDEST} at rank {self.level_ranks[0]}, and --rank-min "
                f"{self.rank_min} leaves out what is before it: none would be of level {HARDEST}. "
                "Raise the one or lower the other"
            )
        if self.relative_max is not None:
            if self.relative_max <= 0:
                raise MghError(f"--relative-max is {self.relative_max}; it must be above 0")
            if self.bands and self.bands[-1] >= self.relative_max:
                raise MghError(
                    f"--bands ends at {self.bands[-1]}, and --relative-max {self.relative_max} leaves out "
                    f"what is above it: none would be of level {HARDEST}. Lower the one or raise the other"
                )

    @property
    def graded(self) -> bool:
        """Whether negatives get levels."""
        return bool(self.bands or self.level_ranks)

    @property
    def most(self) -> int:
        """Negatives that a record may get."""
        return self.negatives * (len(LEVELS) if self.graded else 1)

    def fitting(self, scores: Floats, positive: float, dropped: Counter[str]) -> npt.NDArray[np.bool_]:
        """Which candidates no filter leaves out, [k]. `scores` [k] are in the order of ranks, -inf is no
        candidate; `dropped` counts why the others are left out."""
        relative = shares(scores, positive)
        reasons = {
            "before --rank-min": np.arange(len(scores)) + 1 < self.rank_min,
            "above --max-score": scores > _or(self.max_score, np.inf),
            "above --relative-max": relative > _or(self.relative_max, np.inf),
            "within --absolute-margin": scores > positive - _or(self.absolute_margin, -np.inf),
        }
        left = scores > -np.inf
        for reason, bad in reasons.items():
            dropped[reason] += int((left & bad).sum())
            left = left & ~bad
        return left

    def choose(self, scores: Floats, positive: float, dropped: Counter[str]) -> list[Chosen]:
        """The negatives among the candidates with these `scores`, as in `fitting`, best score first."""
        left = self.fitting(scores, positive, dropped)
        relative = shares(scores, positive)
        places = np.flatnonzero(left)
        places = places[np.argsort(-scores[places], kind="stable")]
        chosen: list[Chosen] = []
        taken: Counter[int | None] = Counter()
        for place in places.tolist():
            level = self._level(place + 1, float(relative[place]))
            if taken[level] < self.negatives:
                taken[level] += 1
                chosen.append(Chosen(place, level))
        dropped["not needed"] += len(places) - len(chosen)
        return chosen

    def band(self, share: float) -> int:
        """The level of the band of `bands` in which a share of the positive's score lies."""
        return LEVELS[sum(border <= share for border in self.bands or ())]

    def _level(self, rank: int, share: float) -> int | None:
        if self.bands:
            return self.band(share)
        if self.level_ranks:
            return HARDEST - sum(rank > border for border in self.level_ranks)
        return None


def _or(border: float | None, otherwise: float) -> float:
    return otherwise if border is None else border


def shares(scores: Floats, positive: float) -> Floats:
    """Scores as shares of the positive's, [k]. Where that is below zero, as far below 1 as the score is below
    the positive's, in the same unit; so a higher score is a higher share for every positive."""
    if positive == 0:
        return np.where(scores > 0, np.inf, np.where(scores < 0, -np.inf, 1.0))
    return 1 - (positive - scores) / abs(positive)


def settled_depth(asked: int | None, selection: Selection, documents: int, corpus: object) -> int:
    """The last rank that is looked at: as asked for, else ten times as many as a record may get.

    Raises MghError if the corpus has fewer texts than are asked for, and if no rank is left for level 1.
    """
    last_border = selection.level_ranks[-1] + selection.negatives if selection.level_ranks else 0
    depth = (
        min(max(10 * selection.most, selection.rank_min, last_border), documents) if asked is None else asked
    )
    for name, value in (
        ("--negatives", selection.most),
        ("--rank-min", selection.rank_min),
        ("--rank-max", depth),
    ):
        if value > documents:
            raise MghError(
                f"{name} asks for {value:,} documents, but {corpus} has {documents:,} distinct texts"
            )
    if depth < selection.rank_min:
        raise MghError(f"--rank-max {depth} is below --rank-min {selection.rank_min}")
    if selection.level_ranks and depth <= selection.level_ranks[-1]:
        easiest, next_one = LEVELS[:2]
        if asked is None:
            last, mend = f"{corpus} has {documents:,} distinct texts", "Lower it, or search a larger corpus"
        else:
            last, mend = f"--rank-max {depth} leaves out what is after it", "Lower the one or raise the other"
        raise MghError(
            f"--level-ranks ends level {next_one} at rank {selection.level_ranks[-1]:,}, and {last}: none "
            f"would be of level {easiest}. {mend}"
        )
    return depth
