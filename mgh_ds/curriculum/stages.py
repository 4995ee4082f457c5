"""The stages of a curriculum: which levels its negatives come from, and which steps it covers."""

from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Literal

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum.config import CurriculumConfig

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

    Raises MghError for a stage that would get none of them.
    """
    wanted = config.stages
    shares = [1 / len(wanted) if stage.share is None else stage.share for stage in wanted]
    # The shares sum to 1 but for a millionth: the last stage ends with the last step all the same.
    boundaries = [*(round(steps * sum(shares[:count])) for count in range(len(shares))), steps]
    stages = []
    for index, stage in enumerate(wanted):
        first, end = boundaries[index], boundaries[index + 1]
        negatives = config.negatives if stage.negatives is None else stage.negatives
        name = ("levels " if len(stage.levels) > 1 else "level ") + ", ".join(map(str, stage.levels))
        if negatives == 0:
            name = "no negatives"
        if end == first:
            raise MghError(
                f"stage `{name}` gets none of the {steps} steps: train longer or change the stages' shares"
            )
        ungraded = config.ungraded_share if stage.ungraded_share is None else stage.ungraded_share
        exact = None if ungraded is None else Fraction(ungraded).limit_denominator(1_000_000)
        stages.append(Stage(index, name, tuple(stage.levels), negatives, first, end - first, exact))
    return stages
