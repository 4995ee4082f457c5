"""The contrastive objective: embeddings of the global batch, and a loss over them."""

from collections.abc import Mapping, Sequence
from typing import Any

from mgh_ds.curriculum.loader import MicroBatch
from mgh_ds.curriculum.stages import Stage
from mgh_ds.losses import make_loss
from mgh_ds.losses.gather import Exchange
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.training.batch import Batch
from mgh_ds.training.config import RunConfig
from mgh_ds.training.guide import Guide
from mgh_ds.training.prefetch import make_contrastive
from mgh_ds.training.step import Notes, StepResult, train_step


class Contrastive:
    """Implements `Objective` by the loss that the recipe names, or the stage, and the guide if there is one.

    Raises MghError for a guide that cannot be loaded.
    """

    def __init__(self, config: RunConfig) -> None:
        guide = config.training.guide
        self.guide = None if guide is None else Guide(guide.name_or_path, config.model.dtype)
        exchange = Exchange(config.training.gather, config.training.negative_groups)
        settings = config.stage_losses()
        self.losses = [make_loss(stage, exchange, guide) for stage in settings]
        self.guided = [any(part.guided for part in stage.parts()) for stage in settings]

    @property
    def identity(self) -> Mapping[str, Any]:
        return {} if self.guide is None else {"guide": self.guide.fingerprint}

    def make_batch(self, texts: MicroBatch, tokenizer: Tokenizer, step: int) -> Batch:
        batch = make_contrastive(texts, tokenizer, step)
        return batch if self.guide is None else self.guide.tokenized(batch, texts)

    def train_step(
        self, engine: Any, batches: Sequence[Batch], records: int, stage: Stage, notes: Notes
    ) -> StepResult:
        if self.guide is not None and self.guided[stage.index]:
            batches = [self.guide.embedded(batch) for batch in batches]
        return train_step(engine, batches, self.losses[stage.index], records, notes)
