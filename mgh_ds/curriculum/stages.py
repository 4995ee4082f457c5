"""The stages of a curriculum: which levels its negatives come from, and which steps it covers."""

from dataclasses import dataclass

from mgh_ds.curriculum.config import CurriculumConfig
from mgh_ds.errors import MghError

ALL_LEVELS = (1, 2, 3, 4)
COARSE_TO_FINE = ((1,), (2, 3), (4,))


@dataclass(frozen=True)
class Stage:
    """Steps `first_step … first_step + steps − 1` (steps count from 0), with `negatives` own negatives a
    query."""

    index: int
    name: str
    levels: tuple[int, ...]
    negatives: int
    first_step: int
    steps: int


def make_stages(config: CurriculumConfig, steps: int) -> list[Stage]:
    """Lays the stages of `config` over `steps` optimiser steps.

    Raises MghError when the shares do not fit the stages, do not sum to 1, or leave a stage without a step.
    """
    if config.negatives < 0 or config.length_window < 1:
        raise MghError("curriculum: `negatives` must be 0 or more and `length_window` 1 or more")
    groups = _level_groups(config)
    shares = config.shares if config.shares is not None else [1 / len(groups)] * len(groups)
    if len(shares) != len(groups):
        raise MghError(
            f"curriculum.shares has {len(shares)} numbers, but order `{config.order}` has "
            f"{len(groups)} stages"
        )
    if not (abs(sum(shares) - 1) <= 1e-6 and min(shares) >= 0):  # NaN is neither
        raise MghError(f"curriculum.shares must be positive and sum to 1, found {shares}")

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
        stages.append(Stage(index, name, levels, negatives, first, end - first))
    return stages


def _level_groups(config: CurriculumConfig) -> tuple[tuple[int, ...], ...]:
    if config.order in ("random", "all"):
        return (ALL_LEVELS,)
    if config.order.startswith("level-"):
        return ((int(config.order.removeprefix("level-")),),)
    groups = COARSE_TO_FINE if config.order == "coarse_to_fine" else COARSE_TO_FINE[::-1]
    if not config.cumulative:
        return groups
    return tuple(tuple(sorted(sum(groups[: count + 1], ()))) for count in range(len(groups)))
