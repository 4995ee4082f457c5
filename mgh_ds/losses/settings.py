"""What a recipe may say about its loss: a class a loss, and where the loss itself is.

Imports nothing heavy, so that what is wrong with a recipe is said before torch is loaded.
"""

from typing import Literal

from pydantic import Field

from mgh_ds.common.settings import Settings


class LossSettings(Settings):
    """The part of a recipe that a loss reads: `training.loss`. Each loss has its own, with its `name`."""

    name: str


class InfoNCESettings(LossSettings):
    """`training.loss` for InfoNCE."""

    name: Literal["info_nce"] = "info_nce"
    """Cross-entropy of a query's positive among all that the query sees."""
    temperature: float = Field(default=0.02, gt=0)
    """Divides the cosines; 0.02 is a cosine scale of 50."""
    own_negatives_only: bool = False
    """A query sees its own record's graded negatives and every positive, but not the graded negatives of
    other records."""
    symmetric: bool = False
    """Records of symmetric tasks are also trained from the positive back to the query."""
    false_negative_margin: float | None = Field(default=None, ge=-2, le=2)
    """Candidates whose cosine exceeds the positive's by more than this are masked as probable positives; null
    masks identical texts only."""


AnyLossSettings = InfoNCESettings
LOSSES: dict[type[LossSettings], str] = {InfoNCESettings: "mgh_ds.losses.info_nce:InfoNCE"}
