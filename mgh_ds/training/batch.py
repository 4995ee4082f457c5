"""A micro-batch as a step takes it: tokens for the model, labels for the loss."""

from dataclasses import dataclass, fields, replace

import torch

from mgh_ds.curriculum.loader import MicroBatch
from mgh_ds.losses.base import Labels
from mgh_ds.model.batches import TokenBatch
from mgh_ds.model.tokens import Tokenizer


@dataclass(frozen=True)
class Batch:
    """m records with 1 + K documents each."""

    tokens: list[TokenBatch]  # the texts of all of them, in order, are the queries and then the documents
    labels: Labels
    ids: list[str]  # of the records, [m]; "" for an empty place
    seed: int  # of dropout
    group: int  # the negative group of all of them

    @property
    def shape(self) -> tuple[int, int]:
        """m records, 1 + K documents each."""
        return self.labels.document_valid.shape[0], self.labels.document_valid.shape[1]

    @property
    def text_count(self) -> int:
        return sum(part.texts for part in self.tokens)

    @property
    def token_count(self) -> int:
        return sum(part.tokens for part in self.tokens)

    def to(self, device: torch.device) -> "Batch":
        return replace(self, tokens=[part.to(device) for part in self.tokens], labels=self.labels.to(device))


def make_batch(texts: MicroBatch, tokenizer: Tokenizer) -> Batch:
    """Tokens and labels of one micro-batch, on the CPU.

    Queries and documents go together where they are packed; else apart, so that short ones are not padded to
    long ones.
    """
    sides = [
        (texts.queries, texts.query_instructions),
        (texts.documents, texts.document_instructions),
    ]
    if tokenizer.padding_free:
        sides = [(texts.queries + texts.documents, texts.query_instructions + texts.document_instructions)]
    tokens = [tokenizer.tokenize(*side) for side in sides]
    return Batch(tokens, make_labels(texts), texts.ids, texts.seed, texts.group)


def make_labels(texts: MicroBatch) -> Labels:
    """Labels of one micro-batch, on the CPU."""
    arrays = {
        field.name: torch.tensor(getattr(texts, field.name))
        for field in fields(Labels)
        if field.name != "group"
    }
    return Labels(**arrays, group=torch.full(texts.valid.shape, texts.group))
