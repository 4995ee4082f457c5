"""The guide of a run: a frozen model that embeds every batch beside the one that is trained, so that a loss
can mask what it takes for a positive. `losses/info_nce.py` has the formula and its source."""

from dataclasses import replace

import torch

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum.loader import MicroBatch
from mgh_ds.distributed.group import device, on_each_machine
from mgh_ds.model.config import DTypeChoice
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.fingerprint import agreed, fingerprint
from mgh_ds.model.settings import SETTINGS_FILE
from mgh_ds.model.weights import resolve_model
from mgh_ds.training.batch import Batch, tokenize

KEY = "training.guide.name_or_path"


class Guide:
    """The model that `training.guide` names, on this rank's device, in the precision of the run.

    All ranks make theirs together. Raises MghError for a model that cannot be found or loaded, that another
    machine has otherwise, or whose embeddings are no numbers.
    """

    def __init__(self, name: str, dtype: DTypeChoice) -> None:
        try:
            self.fingerprint = agreed(on_each_machine(lambda: fingerprint(name)), f"the model {name}")
            self.encoder = Encoder.from_pretrained(name, dtype=dtype, device=device())
            self.encoder.encode(["a"])  # refuses what are no numbers, which would mask nothing
            # Of other models nobody knows whether they were trained with instructions.
            exported = (resolve_model(name) / SETTINGS_FILE).exists()
        except MghError as error:
            raise MghError(f"{KEY}: {error}") from error
        self.reads_instructions = exported and self.encoder.use_instructions

    def tokenized(self, batch: Batch, texts: MicroBatch) -> Batch:
        """The batch with its texts as the guide reads them."""
        return replace(batch, guide=tokenize(texts, self.encoder.tokenizer, self.reads_instructions))

    @torch.no_grad()
    def embedded(self, batch: Batch) -> Batch:
        """The batch, which lies on the device, with the guide's embeddings among its labels."""
        vectors = batch.by_record(torch.cat([self.encoder.model(part) for part in batch.guide]))
        return replace(batch, labels=replace(batch.labels, guide=vectors))
