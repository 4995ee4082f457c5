"""InfoNCE with graded negatives, over the pool of the whole global batch (paper, section 3.2).

    loss_i = −log e(q_i, p_i) / ( e(q_i, p_i) + Σ_j e(q_i, p_j) + Σ_jk e(q_i, n_jk) )
    e(a, b) = exp(cos(a, b) / τ)

over the positives p_j and graded negatives n_jk of all ranks that are not masked.

Shapes: S slots in the global batch, n of them on this rank, K negatives a slot, dimension d.
"""

from dataclasses import dataclass

import torch

from mgh_ds.training.config import LossConfig


@dataclass(frozen=True)
class Pool:
    """What every rank knows of the global batch."""

    embeddings: torch.Tensor  # float32 [S, 2 + K, d], unit length: query, positive, negatives
    valid: torch.Tensor  # bool [S], false for empty slots
    document_valid: torch.Tensor  # bool [S, 1 + K]
    query_hash: torch.Tensor  # int64 [S]
    document_hash: torch.Tensor  # int64 [S, 1 + K]
    symmetric: torch.Tensor  # bool [S]


@dataclass(frozen=True)
class LossOutput:
    """Sums over this rank's valid rows, so that adding them over the ranks gives the global figures."""

    loss_sum: torch.Tensor  # float32 scalar, with gradient
    masked: torch.Tensor  # candidates masked as probable positives, scalar
    candidates: torch.Tensor  # candidates before masking, scalar


def info_nce(pool: Pool, rows: slice, config: LossConfig) -> LossOutput:
    """The summed loss of the slots `rows` of the pool; divide by the global number of valid slots."""
    queries, documents = pool.embeddings[:, 0], pool.embeddings[:, 1:]
    slots, places = documents.shape[:2]
    own = torch.arange(slots, device=documents.device)[rows]
    weight = pool.valid[rows].to(documents.dtype)

    cosines = queries[rows] @ documents.reshape(slots * places, -1).T
    candidates = pool.document_valid.reshape(1, -1).expand(len(own), -1)
    if config.own_negatives_only:
        column = torch.arange(slots * places, device=documents.device)
        candidates = candidates & ((column % places == 0) | (column // places == own[:, None]))
    target = own * places
    allowed = candidates & ~_probable_positives(pool, rows, cosines, target, config)
    losses = _cross_entropy(cosines / config.temperature, allowed, target)

    if config.symmetric:
        back = documents[rows, 0] @ queries.T
        same = _same_texts(pool, rows)
        back_losses = _cross_entropy(back / config.temperature, pool.valid[None, :] & ~same, own)
        losses = torch.where(pool.symmetric[rows], (losses + back_losses) / 2, losses)

    counted, own_positives = pool.valid[rows, None], pool.valid[rows].sum()  # a positive is not its own rival
    return LossOutput(
        loss_sum=(losses * weight).sum(),
        masked=(candidates & ~allowed & counted).sum() - own_positives,
        candidates=(candidates & counted).sum() - own_positives,
    )


def _probable_positives(
    pool: Pool, rows: slice, cosines: torch.Tensor, target: torch.Tensor, config: LossConfig
) -> torch.Tensor:
    """Bool [n, S·(1+K)]: texts identical to the row's positive or query, answers to the same query, and the
    row's own positive."""
    texts = pool.document_hash.reshape(1, -1)
    masked = (texts == pool.document_hash[rows, :1]) | (texts == pool.query_hash[rows, None])
    same_query = pool.query_hash[None, :] == pool.query_hash[rows, None]
    places = pool.document_hash.shape[1]
    masked[:, ::places] |= same_query
    if config.false_negative_margin is not None:
        limit = cosines.gather(1, target[:, None]) + config.false_negative_margin
        masked = masked | (cosines.detach() > limit.detach())
    return masked


def _same_texts(pool: Pool, rows: slice) -> torch.Tensor:
    """Bool [n, S]: queries that equal the row's query or positive, or share the row's positive."""
    query, positive = pool.query_hash, pool.document_hash[:, 0]
    return (
        (query[None, :] == query[rows, None])
        | (query[None, :] == positive[rows, None])
        | (positive[None, :] == positive[rows, None])
    )


def _cross_entropy(logits: torch.Tensor, allowed: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """−log softmax at `target` over the allowed columns and the target itself, float32 [n]."""
    allowed = allowed.scatter(1, target[:, None], True)
    logits = logits.masked_fill(~allowed, float("-inf"))
    return torch.logsumexp(logits, dim=1) - logits.gather(1, target[:, None]).squeeze(1)


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
