"""A micro-batch as a step takes it: tokens for the model, labels for the loss."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Self

import torch

from mgh_ds.curriculum.loader import MicroBatch
from mgh_ds.losses.base import Labels
from mgh_ds.model.batches import TokenBatch
from mgh_ds.model.tokens import Tokenizer


class Size(NamedTuple):
    """How much there is to compute, counted on the host before anything goes to the device."""

    texts: int
    tokens: int
    padded_tokens: int  # places, if queries and documents were padded to the longest of their side
    squared_lengths: int  # Σ n² over the texts' lengths n, to which attention is proportional

    @classmethod
    def of(cls, sides: Iterable[list[int]]) -> Self:
        """Of queries' and of documents' lengths in tokens."""
        sizes = [
            (len(side), sum(side), len(side) * max(side, default=0), sum(n * n for n in side))
            for side in sides
        ]
        return cls(*map(sum, zip(*sizes, strict=True)))

    @classmethod
    def total(cls, sizes: Iterable["Size"]) -> Self:
        return cls(*map(sum, zip(*sizes, strict=True)))


@dataclass(frozen=True)
class Batch:
    """m records with 1 + K documents each."""

    tokens: list[TokenBatch]  # the texts of all of them, in order, are the queries and then the documents
    labels: Labels
    ids: list[str]  # of the records, [m]; "" for an empty place
    seed: int  # of dropout
    group: int  # the negative group of all of them
    size: Size
    guide: Sequence[TokenBatch] = ()  # as `tokens`, for the guide if there is one

    @property
    def shape(self) -> tuple[int, int]:
        """m records, 1 + K documents each."""
        return self.labels.document_valid.shape[0], self.labels.document_valid.shape[1]

    def to(self, device: torch.device) -> "Batch":
        return replace(
            self,
            tokens=[part.to(device) for part in self.tokens],
            labels=self.labels.to(device),
            guide=[part.to(device) for part in self.guide],
        )

    def by_record(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors of the texts in order, [m · (2 + K), d], as query and documents of each record,
        [m, 2 + K, d]."""
        records, documents = self.shape
        return torch.cat([vectors[:records, None], vectors[records:].view(records, documents, -1)], dim=1)


def make_batch(texts: MicroBatch, tokenizer: Tokenizer) -> Batch:
    """Tokens and labels of one micro-batch, on the CPU."""
    tokens = tokenize(texts, tokenizer)
    lengths = [length for part in tokens for length in part.lengths.tolist()]
    size = Size.of([lengths[: len(texts.queries)], lengths[len(texts.queries) :]])
    return Batch(tokens, make_labels(texts), texts.ids, texts.seed, texts.group, size)


def tokenize(texts: MicroBatch, tokenizer: Tokenizer, instructions: bool = True) -> list[TokenBatch]:
    """Queries, then documents, with or without their instructions. They go together where they are packed;
    else apart, so that short ones are not padded to long ones."""
    sides = [
        (texts.queries, texts.query_instructions),
        (texts.documents, texts.document_instructions),
    ]
    if tokenizer.padding_free:
        sides = [(texts.queries + texts.documents, texts.query_instructions + texts.document_instructions)]
    return [tokenizer.tokenize(side, heads if instructions else None) for side, heads in sides]


def make_labels(texts: MicroBatch) -> Labels:
    """Labels of one micro-batch, on the CPU."""
    arrays = {
        field.name: torch.tensor(getattr(texts, field.name))
        for field in fields(Labels)
        if field.name not in ("group", "guide")
    }
    return Labels(**arrays, group=torch.full(texts.valid.shape, texts.group))
