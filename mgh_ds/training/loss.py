"""InfoNCE with graded negatives, over the pool of the whole global batch (paper, section 3.2).

    loss_i = −log e(q_i, p_i) / ( e(q_i, p_i) + Σ_j e(q_i, p_j) + Σ_jk e(q_i, n_jk) )
    e(a, b) = exp(cos(a, b) / τ)

over the positives p_j and graded negatives n_jk of all ranks that are not masked. Read from the positive back
to the query, it is the same formula with queries in the sums.

The sums run over candidates that come by in blocks, whoever holds them, and are kept as logarithms; the
backward pass lets them come by again. So no more than one block of scores is ever held.

Shapes: n rows on this rank, c candidates in a block, K negatives a slot, dimension d.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mgh_ds.training.gather import ALONE, Ring

NOBODY = -1  # the pool of an empty place
BLOCK = 2**24  # numbers in a block of scores, or in its candidates' gradient: 64 MiB of float32

# Cosines, and their gradients for rows and for candidates, where all rows see the same candidates ...
_SHARED = ("nd,cd->nc", "nc,cd->nd", "nc,nd->cd")
# ... and where each row has its own.
_OWN = ("nd,ncd->nc", "nc,ncd->nd", "nc,nd->ncd")


@dataclass(frozen=True)
class Rows:
    """What is asked on this rank: each anchor has to find its target."""

    anchors: torch.Tensor  # float32 [n, d], unit length
    targets: torch.Tensor  # float32 [n, d], unit length
    anchor_hash: torch.Tensor  # int64 [n], of the text
    target_hash: torch.Tensor  # int64 [n]
    pool: torch.Tensor  # int64 [n]


@dataclass(frozen=True)
class Candidates:
    """What the rows are scored against: c texts for all rows, or c for each row alone.

    The facts of a text are its hash, the hash of its partner (a positive's query, a query's positive; of a
    negative, its own again) and its pool.
    """

    vectors: torch.Tensor  # float32 [c, d] or [n, c, d], unit length
    facts: torch.Tensor  # int64 [c, 3] or [n, c, 3]
    ring: Ring = ALONE  # the ranks whose rows they visit


def info_nce(
    rows: Rows, sources: Sequence[Candidates], temperature: float, margin: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows' losses, float32 [n], and two counts, int64 [2]: candidates that the rows saw, and how many of
    these were masked.

    The targets themselves may be among the candidates; they are counted, and masked as identical texts.
    """
    own = (rows.anchors * rows.targets).sum(dim=1)
    log_sum = own / temperature
    counts = torch.zeros(2, dtype=torch.int64, device=own.device)
    for source in sources:
        log_sum, more = _AddCandidates.apply(
            log_sum, rows.anchors, source.vectors, rows, source, temperature, margin
        )
        counts += more
    return log_sum - own / temperature, counts


class _AddCandidates(torch.autograd.Function):
    """log(exp(log_sum) + Σ_c e(anchor, c)) for every row, float32 [n], over the candidates that are not
    masked; and the counts of `info_nce`."""

    @staticmethod
    def forward(
        ctx: Any,
        log_sum: torch.Tensor,
        anchors: torch.Tensor,
        vectors: torch.Tensor,
        rows: Rows,
        candidates: Candidates,
        temperature: float,
        margin: float | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        before, counts = log_sum, torch.zeros(2, dtype=torch.int64, device=log_sum.device)
        for visitors, facts in candidates.ring.visits(vectors, candidates.facts):
            for block in _blocks(rows, visitors):
                logits, more = _logits(
                    rows, visitors[..., block, :], facts[..., block, :], temperature, margin
                )
                log_sum = torch.logaddexp(log_sum, logits.logsumexp(dim=1))
                counts += more
        ctx.save_for_backward(before, log_sum, anchors, vectors)
        ctx.arguments = rows, candidates, temperature, margin
        ctx.mark_non_differentiable(counts)
        return log_sum, counts

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _counts: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        before, log_sum, anchors, vectors = ctx.saved_tensors
        rows, candidates, temperature, margin = ctx.arguments
        _, for_rows, for_candidates = _products(vectors)
        to_anchors, to_visitors = torch.zeros_like(anchors), torch.zeros_like(vectors)
        for visitors, facts in candidates.ring.visits(vectors, candidates.facts):
            for block in _blocks(rows, visitors):
                part = visitors[..., block, :]
                logits, _ = _logits(rows, part, facts[..., block, :], temperature, margin)
                share = (logits - log_sum[:, None]).exp_().mul_(gradient[:, None] / temperature)
                to_anchors += torch.einsum(for_rows, share, part)
                to_visitors[..., block, :] += torch.einsum(for_candidates, share, anchors)
            to_visitors = candidates.ring.pass_on(to_visitors)
        return gradient * (before - log_sum).exp(), to_anchors, to_visitors, None, None, None, None


def _logits(
    rows: Rows, vectors: torch.Tensor, facts: torch.Tensor, temperature: float, margin: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos / τ, −∞ where a candidate is of another pool or masked, float32 [n, c]; and the counts."""
    cosines = torch.einsum(_products(vectors)[0], rows.anchors, vectors)
    text, partner, pool = facts.unbind(dim=-1)
    anchor = rows.anchor_hash[:, None]
    seen = pool == rows.pool[:, None]
    # Identical texts, and another answer to the same question.
    masked = (text == anchor) | (text == rows.target_hash[:, None]) | (partner == anchor)
    if margin is not None:
        masked |= cosines > (rows.anchors * rows.targets).sum(dim=1, keepdim=True) + margin
    counts = torch.stack([seen.sum(), (seen & masked).sum()])
    return cosines.div_(temperature).masked_fill_(~seen | masked, float("-inf")), counts


def _products(vectors: torch.Tensor) -> tuple[str, str, str]:
    return _SHARED if vectors.dim() == 2 else _OWN


def _blocks(rows: Rows, vectors: torch.Tensor) -> Iterator[slice]:
    """The candidates in blocks, so that neither scores [n, c] nor gradients [c, d] exceed BLOCK."""
    size = max(1, BLOCK // max(rows.anchors.shape))
    return (slice(first, first + size) for first in range(0, vectors.shape[-2], size))


def level_statistics(
    embeddings: torch.Tensor, levels: torch.Tensor, document_valid: torch.Tensor
) -> torch.Tensor:
    """How far a query's own negatives stand below its positive, by level.

    Args:
        embeddings: float32 [n, 2 + K, d], unit length.
        levels: int64 [n, K], 0 = ungraded.
        document_valid: bool [n, 1 + K].

    Returns float64 [5, 3]: for level 0 to 4 the count of negatives, how many score below the positive, and
    the sum of the margins cos(q, positive) − cos(q, negative).
    """
    query = embeddings.detach()[:, 0]
    cosines = torch.einsum("nd,nkd->nk", query, embeddings.detach()[:, 1:]).double()
    margins = cosines[:, :1] - cosines[:, 1:]
    real = document_valid[:, 1:]
    table = torch.zeros(5, 3, dtype=torch.float64, device=embeddings.device)
    for column, values in enumerate([torch.ones_like(margins), (margins > 0).double(), margins]):
        table[:, column].index_add_(0, levels[real], values[real])
    return table
