"""What a recipe may say about its curriculum."""

from typing import Annotated, Literal

from pydantic import Field

from mgh_ds.common.config import Settings

Order = Literal[
    "coarse_to_fine", "fine_to_coarse", "random", "level-1", "level-2", "level-3", "level-4", "all"
]
Share = Annotated[float, Field(ge=0, le=1)]


class CurriculumConfig(Settings):
    """The order of the difficulty levels and how batches are put together."""

    order: Order = "coarse_to_fine"
    """`coarse_to_fine` trains level 1, then 2 and 3, then 4 (the paper's best); `fine_to_coarse` the reverse;
    `random` and `all` have one stage with every level (one negative drawn at random, or all of them);
    `level-k` keeps to one level. Each is a row of the paper's ablation."""
    cumulative: bool = False
    """A stage keeps the levels of the stages before it."""
    shares: list[float] | None = None
    """Each stage's share of the steps, summing to 1; null shares them equally."""
    negatives: int = Field(default=1, ge=0)
    """How many of its own negatives a query brings to the batch; where its record has more at the stage's
    levels, some are drawn anew each epoch. `order: all` always brings one a level."""
    missing_level: Literal["nearest", "in_batch", "skip"] = "nearest"
    """What a record does in a stage whose levels it lacks: bring its `nearest` level, come without a negative
    of its own (`in_batch`), or sit the stage out (`skip`). Ungraded negatives fit every stage."""
    ungraded_share: Share | list[Share] | None = None
    """Share of a stage's batches that is made of records without a graded negative (public pairs and
    triples), one number or one a stage; the other batches hold none of them. null mixes all records as they
    come."""
    homogeneous: bool = True
    """Global batches hold one task each where a task has enough records; what is left over is mixed."""
    length_window: int = Field(default=16, ge=1)
    """So many global batches are sorted by length together before they are cut, which saves padding."""
