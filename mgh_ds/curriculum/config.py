"""What a recipe may say about its curriculum: the `curriculum:` section, and the orders of levels that have a
name."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from mgh_ds.common.problems import nearest
from mgh_ds.common.settings import Settings
from mgh_ds.losses.settings import EveryLoss, LossSettings
from mgh_ds.records.levels import EASIEST, HARDEST, LEVELS, MEDIUM

Level = Annotated[int, Field(ge=EASIEST, le=HARDEST)]
Share = Annotated[float, Field(ge=0, le=1)]


def distinct(levels: list[int]) -> list[int]:
    """The levels. Raises ValueError where one is named twice."""
    if len(set(levels)) < len(levels):
        raise ValueError(f"names a level twice: {levels}")
    return levels


def _as_said(loss: LossSettings | None) -> dict[str, Any] | None:
    """Without what the recipe leaves unsaid, so that it stays unsaid where it is read again."""
    return None if loss is None else loss.model_dump(exclude_unset=True)


class StageConfig(Settings):
    """One stage of a curriculum."""

    levels: list[Level] = Field(min_length=1)
    """The levels that its negatives come from."""
    share: float | None = Field(default=None, gt=0, le=1)
    """Of all steps; the shares of all stages sum to 1. null in every stage: all are equally long."""
    negatives: int | None = Field(default=None, ge=0)
    """How many of its own negatives a query brings; null: as many as `curriculum.negatives`."""
    ungraded_share: Share | None = None
    """Share of the stage's batches that is made of records without a graded negative; null: as
    `curriculum.ungraded_share`."""
    loss: Annotated[EveryLoss | None, PlainSerializer(_as_said)] = Field(default=None, discriminator="name")
    """The stage's own loss, by its `name`; what it leaves unsaid is as in a `training.loss` of the same name.
    null: `training.loss`."""

    @field_validator("levels")
    @classmethod
    def _check_levels(cls, levels: list[int]) -> list[int]:
        return distinct(levels)


def _in_turn(*levels: Sequence[int]) -> list[StageConfig]:
    return [StageConfig(levels=list(some)) for some in levels]


ORDERS: dict[str, list[StageConfig]] = {
    # The paper's best: the easy level, then the medium ones, then the hard one.
    "coarse_to_fine": _in_turn([EASIEST], MEDIUM, [HARDEST]),
    "fine_to_coarse": _in_turn([HARDEST], MEDIUM, [EASIEST]),
    # One stage with every level: a negative drawn at random, or one of each level.
    "random": _in_turn(LEVELS),
    "all": [StageConfig(levels=list(LEVELS), negatives=len(LEVELS))],
    # One level alone.
    **{f"level-{level}": _in_turn([level]) for level in LEVELS},
}
"""The stages behind each order that has a name; the eight of the paper's ablation."""


def order_of(stages: Sequence[StageConfig]) -> str | None:
    """The name of the order that has just these stages, if it has one."""
    return next((name for name, known in ORDERS.items() if list(stages) == known), None)


def _resolved(stages: Any) -> Any:
    if not isinstance(stages, str):
        return stages
    if stages not in ORDERS:
        hint = nearest(stages, ORDERS) or f"; there are: {', '.join(ORDERS)}"
        raise ValueError(f"unknown order `{stages}`{hint}")
    return ORDERS[stages]


def _by_name(stages: list[StageConfig]) -> str | list[dict[str, Any]]:
    # Without a loss of its own a stage is written as it was before there were any.
    return order_of(stages) or [
        stage.model_dump(exclude=None if stage.loss else {"loss"}) for stage in stages
    ]


# What a recipe may write: stages, or the name of an order; written back as its name.
Stages = Annotated[
    list[StageConfig],
    Field(min_length=1),
    BeforeValidator(_resolved, json_schema_input_type=Literal[tuple(ORDERS)] | list[StageConfig]),
    PlainSerializer(_by_name),
]


class CurriculumConfig(Settings):
    """The order of the difficulty levels and how batches are put together."""

    stages: Stages = ORDERS["coarse_to_fine"]
    """The stages one after another, each with its levels, or the name of an order: `coarse_to_fine` (the
    paper's best), `fine_to_coarse`, `random` (one stage, one negative of any level), `all` (one stage, one
    negative of each level) or `level-k` (level k alone)."""
    negatives: int = Field(default=1, ge=0)
    """How many of its own negatives a query brings to the batch, where a stage does not say; where its record
    has more at the stage's levels, some are drawn anew each epoch."""
    missing_level: Literal["nearest", "in_batch", "skip"] = "nearest"
    """What a record does in a stage whose levels it lacks: bring its `nearest` level, come without a negative
    of its own (`in_batch`), or sit the stage out (`skip`). Ungraded negatives fit every stage."""
    ungraded_share: Share | None = None
    """Share of a stage's batches that is made of records without a graded negative (public pairs and
    triples), where a stage does not say; the other batches hold none of them. null mixes all records as they
    come."""
    homogeneous: bool = True
    """Global batches hold one task each where a task has enough records; what is left over is mixed."""
    length_window: int = Field(default=16, ge=1)
    """So many global batches are sorted by length together before they are cut, which saves padding."""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        shares = [stage.share for stage in self.stages]
        given = [share for share in shares if share is not None]
        if given and (len(given) < len(shares) or abs(sum(given) - 1) > 1e-6):
            raise ValueError(f"the stages' shares must sum to 1, or all be null; found {shares}")
        return self
