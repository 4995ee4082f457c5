"""The stages of a curriculum: which levels its negatives come from, and which steps it covers."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Literal

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum.config import CurriculumConfig

ALL_LEVELS = (1, 2, 3, 4)
COARSE_TO_FINE = ((1,), (2, 3), (4,))

SourceName = Literal["all", "graded", "ungraded"]


@dataclass(frozen=True)
class Stage:
    """Steps `first_step … first_step + steps − 1` (steps count from 0), with `negatives` own negatives a
    query.

    Its batches are drawn from one source, all records, or in turn from two, the graded and the ungraded ones
    (`ungraded_share` of the steps, spread evenly). Of any number of steps from the stage's first on,
    `floor(number · ungraded_share)` are ungraded: the share is a fraction, so nothing drifts.
    """

    index: int
    name: str
    levels: tuple[int, ...]
    negatives: int
    first_step: int
    steps: int
    ungraded_share: Fraction | None = None

    def source(self, step: int) -> tuple[SourceName, int]:
        """The source that `step` draws from, and how many of the stage's earlier steps drew from the same."""
        done = step - self.first_step
        if self.ungraded_share is None:
            return "all", done
        ungraded = floor(done * self.ungraded_share)
        if floor((done + 1) * self.ungraded_share) > ungraded:
            return "ungraded", ungraded
        return "graded", done - ungraded

    def source_steps(self) -> dict[SourceName, int]:
        """How many steps draw from each source; a source without a share is left out."""
        share = self.ungraded_share
        if share is None:
            return {"all": self.steps}
        ungraded = floor(self.steps * share)
        graded: dict[SourceName, int] = {"graded": self.steps - ungraded} if share < 1 else {}
        return graded | ({"ungraded": ungraded} if share > 0 else {})


def make_stages(config: CurriculumConfig, steps: int) -> list[Stage]:
    """Lays the stages of `config` over `steps` optimiser steps.

    Raises MghError when shares do not fit the stages, do not sum to 1, or leave a stage without a step.
    """
    groups = _level_groups(config)
    shares = config.shares if config.shares is not None else [1 / len(groups)] * len(groups)
    if len(shares) != len(groups):
        raise MghError(
            f"curriculum.shares has {len(shares)} numbers, but order `{config.order}` has "
            f"{len(groups)} stages"
        )
    if not (abs(sum(shares) - 1) <= 1e-6 and min(shares) >= 0):  # NaN is neither
        raise MghError(f"curriculum.shares must be positive and sum to 1, found {shares}")
    ungraded = _ungraded_shares(config, len(groups))

    boundaries = [round(steps * sum(shares[:count])) for count in range(len(shares) + 1)]
    stages = []
    for index, levels in enumerate(groups):
        first, end = boundaries[index], boundaries[index + 1]
        name = ("levels " if len(levels) > 1 else "level ") + ", ".join(map(str, levels))
        if end == first:
            raise MghError(
                f"stage `{name}` gets none of the {steps} steps: train longer or change curriculum.shares"
            )
        negatives = len(levels) if config.order == "all" else config.negatives
        stages.append(Stage(index, name, levels, negatives, first, end - first, ungraded[index]))
    return stages


def _ungraded_shares(config: CurriculumConfig, stages: int) -> Sequence[Fraction | None]:
    given = config.ungraded_share
    if given is None:
        return [None] * stages
    shares = given if isinstance(given, list) else [given] * stages
    if len(shares) != stages:
        raise MghError(
            f"curriculum.ungraded_share has {len(shares)} numbers, but order `{config.order}` has "
            f"{stages} stages"
        )
    return [Fraction(share).limit_denominator(1_000_000) for share in shares]


def _level_groups(config: CurriculumConfig) -> tuple[tuple[int, ...], ...]:
    if config.order in ("random", "all"):
        return (ALL_LEVELS,)
    if config.order.startswith("level-"):
        return ((int(config.order.removeprefix("level-")),),)
    groups = COARSE_TO_FINE if config.order == "coarse_to_fine" else COARSE_TO_FINE[::-1]
    if not config.cumulative:
        return groups
    return tuple(tuple(sorted(sum(groups[: count + 1], ()))) for count in range(len(groups)))
