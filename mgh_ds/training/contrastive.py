"""The contrastive objective: embeddings of the global batch, and a loss over them."""

from collections.abc import Sequence
from typing import Any

from mgh_ds.losses import make_loss
from mgh_ds.losses.gather import Exchange
from mgh_ds.training.batch import Batch
from mgh_ds.training.config import RunConfig
from mgh_ds.training.prefetch import make_contrastive
from mgh_ds.training.step import Notes, StepResult, train_step


class Contrastive:
    """Implements `Objective` by the loss that the recipe names."""

    make_batch = staticmethod(make_contrastive)

    def __init__(self, config: RunConfig) -> None:
        training = config.training
        self.loss = make_loss(training.loss, Exchange(training.gather, training.negative_groups))

    def train_step(self, engine: Any, batches: Sequence[Batch], records: int, notes: Notes) -> StepResult:
        return train_step(engine, batches, self.loss, records, notes)
