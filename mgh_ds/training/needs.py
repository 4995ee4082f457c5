"""Whether the records have what a loss learns from, and the model as many dimensions as it looks at."""

from collections.abc import Sequence

import numpy as np

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum import TrainingPlan
from mgh_ds.curriculum.stages import Stage
from mgh_ds.losses.settings import NEEDS, InfoNCESettings, LossSettings, MatryoshkaSettings, Needs
from mgh_ds.training.config import RunConfig
from mgh_ds.training.objectives import ContrastiveSettings


def check_recipe(config: RunConfig, plan: TrainingPlan) -> list[str]:
    """What `check_needs` says of a run's losses, where its objective has any. Raises MghError as it does."""
    if isinstance(config.training.objective, ContrastiveSettings):
        return check_needs(plan, config.stage_losses())
    return []


def check_needs(plan: TrainingPlan, losses: Sequence[LossSettings]) -> list[str]:
    """What to say of records that a part of a sum learns nothing from, a line each.

    Raises MghError for a stage whose loss can learn nothing from the records that the stage trains on, with
    the negatives that they bring to it; and, unless the loss is a sum of several, where it can learn nothing
    from some of the records; and for weights by level where no record brings a level. `losses` are those of
    each stage."""
    remarks = []
    for stage, loss in zip(plan.stages, losses, strict=True):
        records, alone = plan.trained_on(stage), len(loss.parts()) == 1
        for part in loss.parts():
            if part.needs is None:
                _check_level_weights(part, records & _fitting(plan, stage, "levels"), stage.name)
                continue
            if stage.negatives == 0 and part.needs != "pair_scores":
                raise MghError(
                    f"the loss {part.name} learns from a query's own negatives, and the stage "
                    f"`{stage.name}` brings none: set curriculum.negatives, or take another loss"
                )
            wanted = int(np.count_nonzero(records))
            found = int(np.count_nonzero(records & _fitting(plan, stage, part.needs)))
            if found == 0 or (found < wanted and alone):
                raise MghError(
                    f"the loss {part.name} learns from {NEEDS[part.needs]}, which {wanted - found:,} of "
                    f"{wanted:,} records of the stage `{stage.name}` do not bring to it: leave them out, or "
                    "take another loss"
                    + (", or a sum with one that needs nothing of the kind" if found else "")
                )
            if found < wanted:
                remarks.append(
                    f"{stage.name}: {wanted - found:,} of {wanted:,} records do not bring "
                    f"{NEEDS[part.needs]}: the part {part.name} of the loss learns nothing from them"
                )
    return remarks


def _check_level_weights(loss: LossSettings, graded: np.ndarray, stage: str) -> None:
    if isinstance(loss, InfoNCESettings) and loss.level_weights is not None and not graded.any():
        raise MghError(
            f"the loss {loss.name} has level_weights, and no record of the stage `{stage}` brings a "
            "negative with a level: leave them out, or grade the records (mgh-ds data mine --relabel)"
        )


def check_dims(losses: Sequence[LossSettings], dim: int) -> None:
    """Raises MghError for a loss of any stage that looks at more dimensions than the `dim` of the model's
    embeddings: at the start, and not when its stage comes."""
    for loss in losses:
        if isinstance(loss, MatryoshkaSettings) and loss.dims[0] > dim:
            raise MghError(
                f"the loss matryoshka names dims to {loss.dims[0]}, but the model's embeddings have {dim}: "
                "leave the wider ones out"
            )


def _fitting(plan: TrainingPlan, stage: Stage, needs: Needs) -> np.ndarray:
    """Which records bring what is needed to a stage, bool [n]."""
    if needs == "pair_scores":
        return np.asarray(plan.index.scored > 0)
    if needs == "scores":
        return plan.brings(stage, graded=False) & (plan.index.scored == 2)
    return plan.brings(stage, graded=True)
