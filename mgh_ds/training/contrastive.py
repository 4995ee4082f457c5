"""The contrastive objective: embeddings of the global batch, and a loss over them."""

from collections.abc import Sequence
from typing import Any

from mgh_ds.curriculum.stages import Stage
from mgh_ds.losses import make_loss
from mgh_ds.losses.gather import Exchange
from mgh_ds.training.batch import Batch
from mgh_ds.training.config import RunConfig
from mgh_ds.training.prefetch import make_contrastive
from mgh_ds.training.step import Notes, StepResult, train_step


class Contrastive:
    """Implements `Objective` by the loss that the recipe names, or the stage."""

    make_batch = staticmethod(make_contrastive)

    def __init__(self, config: RunConfig) -> None:
        exchange = Exchange(config.training.gather, config.training.negative_groups)
        self.losses = [make_loss(settings, exchange) for settings in config.stage_losses()]

    def train_step(
        self, engine: Any, batches: Sequence[Batch], records: int, stage: Stage, notes: Notes
    ) -> StepResult:
        return train_step(engine, batches, self.losses[stage.index], records, notes)
