"""Exact search: the documents that are most like each query, by products of blocks of vectors.

Memory is flat: it holds some queries, a block of documents, their products, and the best so far. Products are
float32; the best of them, and a few more, are computed again in float64 and ordered by that, equal ones by
their order in the corpus. So the order is that of a brute force in float64, unless more than `SPARE`
documents lie within float32's rounding of the last place.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mgh_ds.encoding.vectors import Floats, Vectors

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

SPARE = 16
BLOCK_QUERIES = 1024  # in one product
BLOCK_EXACT = 64  # queries whose documents are gathered at once


class Candidates(NamedTuple):
    """For q queries the k documents most like them, best first; -1 and -inf where there are fewer."""

    documents: Int64s  # [q, k]
    scores: Float64s  # [q, k] cosine


class Excluded(NamedTuple):
    """Pairs of query and document that are not searched."""

    queries: Int64s  # [n]
    documents: Int64s  # [n]


class TopK:
    """The k best documents of each query so far; of equal ones those that came first."""

    def __init__(self, queries: int, k: int, device: torch.device) -> None:
        self.scores = torch.full((queries, k), -torch.inf, device=device)
        self.documents = torch.full((queries, k), -1, dtype=torch.int64, device=device)

    def add(self, scores: torch.Tensor, first: int) -> None:
        """The next documents, the first of which is number `first`; `scores` [queries, n], -inf for those
        that do not count."""
        queries, k = self.scores.shape
        better = scores > self.scores[:, -1:]
        # Many are in the first blocks, few in later ones.
        if int(torch.count_nonzero(better)) > queries * k:
            better &= scores >= scores.topk(min(k, scores.shape[1]), dim=1).values[:, -1:]
        new_rows, columns = better.nonzero(as_tuple=True)
        if not len(new_rows):
            return
        old_rows = torch.arange(queries, device=scores.device).repeat_interleave(k)
        rows = torch.cat([old_rows, new_rows])
        values = torch.cat([self.scores.flatten(), scores[new_rows, columns]])
        documents = torch.cat([self.documents.flatten(), columns + first])
        # Both sorts are stable, and of equal scores the earlier documents stand first already.
        order = values.argsort(descending=True, stable=True)
        order = order[rows[order].argsort(stable=True)]
        rows = rows[order]
        lengths = torch.bincount(rows, minlength=queries)
        starts = lengths.cumsum(0) - lengths
        kept = order[torch.arange(len(rows), device=rows.device) - starts[rows] < k]
        self.scores = values[kept].view(queries, k)
        self.documents = documents[kept].view(queries, k)


def search(
    queries: Floats, documents: Vectors, k: int, excluded: Excluded, device: torch.device
) -> Candidates:
    """The k documents with the largest cosines to each query, without those excluded.

    Args:
        queries: [q, dimensions], unit length.
        documents: the vectors that are searched, unit length.
    """
    return ranked(queries, documents, _best(queries, documents, k + SPARE, excluded, device), k)


def ranked(queries: Floats, documents: Vectors, best: Int64s, k: int) -> Candidates:
    """Of the documents `best` [q, n], -1 for none, the k with the largest cosines in float64, best first."""
    scores = np.full(best.shape, -np.inf)
    for block in _blocks(len(queries), BLOCK_EXACT):
        rows = best[block]
        found = documents.take(np.maximum(rows, 0).ravel()).reshape(*rows.shape, -1)
        cosines = dots(queries[block][:, None], found)
        scores[block] = np.where(rows >= 0, cosines, -np.inf)
    # By score, then by the order of the corpus.
    order = np.lexsort((best, -scores), axis=1)[:, :k]
    return Candidates(np.take_along_axis(best, order, 1), np.take_along_axis(scores, order, 1))


def dots(first: Floats, second: Floats) -> Float64s:
    """Sums of products over the last dimension, in float64: equal vectors give equal bits."""
    return (first.astype(np.float64) * second.astype(np.float64)).sum(axis=-1)


def _best(queries: Floats, documents: Vectors, k: int, excluded: Excluded, device: torch.device) -> Int64s:
    """[q, k] documents by their float32 products."""
    blocks = list(_blocks(len(queries), BLOCK_QUERIES))
    held = [torch.from_numpy(queries[block].astype(np.float32)).to(device) for block in blocks]
    tops = [TopK(len(block), k, device) for block in held]
    order = np.argsort(excluded.documents, kind="stable")
    excluded = Excluded(excluded.queries[order], excluded.documents[order])
    for first, vectors in documents:
        block_documents = torch.from_numpy(vectors.astype(np.float32)).to(device)
        here = slice(*np.searchsorted(excluded.documents, [first, first + len(vectors)]))
        rows, columns = excluded.queries[here], excluded.documents[here] - first
        for block, query, top in zip(blocks, held, tops, strict=True):
            scores = query @ block_documents.T
            mine = (rows >= block.start) & (rows < block.stop)
            places = (rows[mine] - block.start, columns[mine])
            scores[tuple(torch.from_numpy(each).to(device) for each in places)] = -torch.inf
            top.add(scores, first)
    return torch.cat([top.documents for top in tops]).cpu().numpy()


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def pairs(found: Iterable[tuple[int, int]]) -> Excluded:
    """Of (query, document); those without a document (-1) are left out."""
    both = np.array([pair for pair in found if pair[1] >= 0], np.int64).reshape(-1, 2)
    return Excluded(both[:, 0], both[:, 1])
