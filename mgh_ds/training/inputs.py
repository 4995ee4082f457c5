"""A micro-batch with its tokens: what the loader's texts become before a step begins."""

from dataclasses import dataclass, replace

import torch

from mgh_ds.curriculum.loader import MicroBatch
from mgh_ds.model.batches import TokenBatch
from mgh_ds.model.tokens import Tokenizer


@dataclass(frozen=True)
class Inputs:
    """A micro-batch as the model takes it: queries and documents together if they are packed; else apart, so
    that short ones are not padded to long ones."""

    batch: MicroBatch
    parts: list[TokenBatch]  # the texts of all of them, in order, are the queries and then the documents

    @property
    def shape(self) -> tuple[int, int]:
        """m slots, 1 + K documents each."""
        return self.batch.document_valid.shape[0], self.batch.document_valid.shape[1]

    @property
    def texts(self) -> int:
        return sum(part.texts for part in self.parts)

    @property
    def tokens(self) -> int:
        return sum(part.tokens for part in self.parts)

    def to(self, device: torch.device) -> "Inputs":
        return replace(self, parts=[part.to(device) for part in self.parts])


def tokenize(batch: MicroBatch, tokenizer: Tokenizer) -> Inputs:
    """Tokens of one micro-batch, on the CPU."""
    sides = [
        (batch.queries, batch.query_instructions),
        (batch.documents, batch.document_instructions),
    ]
    if tokenizer.padding_free:
        sides = [(batch.queries + batch.documents, batch.query_instructions + batch.document_instructions)]
    return Inputs(batch, [tokenizer.tokenize(*side) for side in sides])
