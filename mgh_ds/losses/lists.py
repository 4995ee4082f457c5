"""Graded lists: what a query's documents score, and how relevant they are.

Shapes: n queries, L places in a list, K negatives a record.
"""

from typing import NamedTuple

import torch

from mgh_ds.losses.base import Labels
from mgh_ds.losses.gather import Exchange
from mgh_ds.losses.keys import document_keys, pair_keys, visibility
from mgh_ds.records.levels import HARDEST


class GradedLists(NamedTuple):
    """Lists of n queries, one a row. A place that is not there counts for nothing; the list of a record that
    is not valid, or has no negative with a level, has none."""

    cosines: torch.Tensor  # float32 [n, L]; with gradient
    relevance: torch.Tensor  # int64 [n, L]: HARDEST + 1 for the positive, a negative's level, else 0
    present: torch.Tensor  # bool [n, L]
    own: int  # 1 + K: the most places that a query's own documents take

    def sorted(self) -> "GradedLists":
        """The most relevant first, so that a place stands for a level wherever the record has it; what is not
        there comes last."""
        order = torch.where(self.present, self.relevance, -1).argsort(dim=1, descending=True, stable=True)
        cosines, relevance, present = (part.gather(1, order) for part in self[:3])
        return GradedLists(cosines, relevance, present, self.own)

    def gains(self, base: float) -> torch.Tensor:
        """base^relevance − 1, [n, L], of the cosines' dtype; 0 where nothing is there."""
        gains = torch.pow(base, self.relevance.to(self.cosines.dtype)) - 1
        return torch.where(self.present, gains, 0)


def own_lists(embeddings: torch.Tensor, labels: Labels) -> GradedLists:
    """The positive of each query and its own negatives: L = 1 + K."""
    cosines = torch.einsum("nd,nkd->nk", embeddings[:, 0], embeddings[:, 1:])
    present = labels.document_valid & _graded(labels)[:, None]
    return GradedLists(cosines, _relevance(labels), present, own=cosines.shape[1])


def group_lists(embeddings: torch.Tensor, labels: Labels, exchange: Exchange) -> GradedLists:
    """All documents of the negative group's records, on all its ranks, in one order on all of them: its own
    with their relevance, others with 0. What InfoNCE would mask, and further copies of its own documents, is
    not there. All are held at once, whatever the way of gathering."""
    queries, documents = embeddings[:, 0], embeddings[:, 1:]
    everyone = exchange.everyone(documents.flatten(0, 1), document_keys(labels).flatten(0, 1))
    vectors, keys = everyone.vectors, everyone.keys
    n, places = documents.shape[:2]
    first = exchange.place * n * places
    own = torch.arange(first, first + n * places, device=vectors.device).view(n, places)
    seen, same = visibility(pair_keys(labels, labels.valid), keys)
    copies = (keys[:, 0] == labels.document_hash[..., None]) & labels.document_valid[..., None]
    others = seen & ~same & ~copies.any(dim=1)
    graded = _graded(labels)[:, None]
    return GradedLists(
        queries @ vectors.T,
        torch.zeros_like(others, dtype=torch.int64).scatter_(1, own, _relevance(labels)),
        others.scatter_(1, own, labels.document_valid) & graded,
        own=places,
    )


def _relevance(labels: Labels) -> torch.Tensor:
    """Of a query's own documents, int64 [n, 1 + K]."""
    return torch.nn.functional.pad(labels.levels, (1, 0), value=HARDEST + 1)


def _graded(labels: Labels) -> torch.Tensor:
    """Which records have a positive and a negative with a level, bool [n]."""
    return labels.valid & ((labels.levels > 0) & labels.document_valid[:, 1:]).any(dim=1)
