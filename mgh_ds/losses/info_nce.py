"""InfoNCE with graded negatives, over all queries and documents of a negative group (paper, section 3.2; van
den Oord et al., "Representation learning with contrastive predictive coding", 2018).

    loss_i = −log e(q_i, p_i) / ( e(q_i, p_i) + Σ_j e(q_i, p_j) + Σ_jk e(q_i, n_jk) )
    e(a, b) = exp(cos(a, b) / τ)

over the positives p_j and graded negatives n_jk of the group, on all its ranks, that are not masked. Read
from the positive back to the query, it is the same formula with queries in the sums.

The sums run over candidates that come by in blocks, whoever holds them, and are kept as logarithms; the
backward pass lets them come by again. So no more than one block of scores is ever held.

Shapes: n queries on this rank, c candidates in a block, K negatives a record, dimension d.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from mgh_ds.losses.base import Labels, Loss, LossOutput, Ratio
from mgh_ds.losses.gather import Candidates
from mgh_ds.losses.settings import InfoNCESettings

NO_GROUP = -1  # of an empty place among the candidates
NOBODY = -2  # of a record that does not take part as a query: it sees no candidate, and its loss is 0
BLOCK = 2**24  # numbers in a block of scores, or in its candidates' gradient: 64 MiB of float32

# Cosines, and their gradients for queries and for candidates, where all queries see the same candidates ...
_SHARED = ("nd,cd->nc", "nc,cd->nd", "nc,nd->cd")
# ... and where each query has its own.
_OWN = ("nd,ncd->nc", "nc,ncd->nd", "nc,nd->ncd")


class InfoNCE(Loss):
    """The formula above. Statistics: `masked_share`, of the candidates that the queries saw."""

    settings: InfoNCESettings

    def __call__(self, embeddings: torch.Tensor, labels: Labels) -> LossOutput:
        # A rank sends only what queries of others see: positives, graded negatives unless they are for their
        # own query alone, and queries where positives are to find them again.
        settings, valid = self.settings, labels.valid
        documents, keys = embeddings[:, 1:], _document_keys(labels)
        if settings.own_negatives_only:
            sources = [
                self.exchange.candidates(documents[:, 0], keys[:, 0]),
                Candidates(documents[:, 1:], keys[:, 1:]),
            ]
        else:
            sources = [self.exchange.candidates(documents.flatten(0, 1), keys.flatten(0, 1))]
        there = _pairs(embeddings, labels, valid)
        losses, counts = info_nce(there, sources, settings.temperature, settings.false_negative_margin)
        seen, masked = counts - valid.sum()  # a positive is not its own negative
        total = losses.sum()
        if settings.symmetric:
            both_ways = labels.symmetric & valid
            queries = self.exchange.candidates(embeddings[:, 0], _query_keys(labels))
            back = _pairs(embeddings, labels, both_ways, back=True)
            losses_back, _ = info_nce(back, [queries], settings.temperature)
            total = torch.where(labels.symmetric, losses / 2, losses).sum() + losses_back.sum() / 2
        return LossOutput(total, {"masked_share": Ratio(masked, seen)})


class Pairs(NamedTuple):
    """n queries, each with the target that it has to find; on the way back, positives and their queries.
    One of the group `NOBODY` has a loss of 0 and no gradient."""

    queries: torch.Tensor  # float32 [n, d], unit length
    targets: torch.Tensor  # float32 [n, d], unit length
    keys: torch.Tensor  # int64 [n, 3]: hash of the query, hash of the target, negative group


def _pairs(embeddings: torch.Tensor, labels: Labels, which: torch.Tensor, *, back: bool = False) -> Pairs:
    """Of all n records, of which those that are not `which`, bool [n], see nobody: to select them would make
    the host wait for their number."""
    query, target = (1, 0) if back else (0, 1)
    hashes = labels.query_hash, labels.document_hash[:, 0]
    group = torch.where(which, labels.group, NOBODY)
    keys = torch.stack([hashes[query], hashes[target], group], dim=-1)
    return Pairs(embeddings[:, query], embeddings[:, target], keys)


def _document_keys(labels: Labels) -> torch.Tensor:
    """Of documents as candidates, int64 [n, 1 + K, 3]."""
    partner = torch.cat([labels.query_hash[:, None], labels.document_hash[:, 1:]], dim=1)
    group = torch.where(labels.document_valid, labels.group[:, None], NO_GROUP)
    return torch.stack([labels.document_hash, partner, group], dim=-1)


def _query_keys(labels: Labels) -> torch.Tensor:
    """Of queries as candidates on the way back, int64 [n, 3]."""
    group = torch.where(labels.valid, labels.group, NO_GROUP)
    return torch.stack([labels.query_hash, labels.document_hash[:, 0], group], dim=-1)


def info_nce(
    pairs: Pairs, sources: Sequence[Candidates], temperature: float, margin: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The queries' losses, float32 [n], and two counts, int64 [2]: candidates that the queries saw, and how
    many of these were masked.

    The targets themselves may be among the candidates; they are counted, and masked as identical texts.
    """
    own = (pairs.queries * pairs.targets).sum(dim=1)
    log_sum = own / temperature
    counts = torch.zeros(2, dtype=torch.int64, device=own.device)
    for source in sources:
        log_sum, more = _AddCandidates.apply(
            log_sum, pairs.queries, source.vectors, pairs, source, temperature, margin
        )
        counts += more
    return log_sum - own / temperature, counts


class _AddCandidates(torch.autograd.Function):
    """log(exp(log_sum) + Σ_c e(query, c)) for every query, float32 [n], over the candidates that are not
    masked; and the counts of `info_nce`."""

    @staticmethod
    def forward(
        ctx: Any,
        log_sum: torch.Tensor,
        queries: torch.Tensor,
        vectors: torch.Tensor,
        pairs: Pairs,
        candidates: Candidates,
        temperature: float,
        margin: float | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        before, counts = log_sum, torch.zeros(2, dtype=torch.int64, device=log_sum.device)
        for visitors, keys in candidates.ring.visits(vectors, candidates.keys):
            for block in _blocks(pairs, visitors):
                logits, more = _logits(
                    pairs, visitors[..., block, :], keys[..., block, :], temperature, margin
                )
                log_sum = torch.logaddexp(log_sum, logits.logsumexp(dim=1))
                counts += more
        ctx.save_for_backward(before, log_sum, queries, vectors)
        ctx.arguments = pairs, candidates, temperature, margin
        ctx.mark_non_differentiable(counts)
        return log_sum, counts

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _counts: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        before, log_sum, queries, vectors = ctx.saved_tensors
        pairs, candidates, temperature, margin = ctx.arguments
        _, for_queries, for_candidates = _products(vectors)
        to_queries, to_visitors = torch.zeros_like(queries), torch.zeros_like(vectors)
        for visitors, keys in candidates.ring.visits(vectors, candidates.keys):
            for block in _blocks(pairs, visitors):
                part = visitors[..., block, :]
                logits, _ = _logits(pairs, part, keys[..., block, :], temperature, margin)
                weight = (logits - log_sum[:, None]).exp_().mul_(gradient[:, None] / temperature)
                to_queries += torch.einsum(for_queries, weight, part)
                to_visitors[..., block, :] += torch.einsum(for_candidates, weight, queries)
            to_visitors = candidates.ring.pass_on(to_visitors)
        return gradient * (before - log_sum).exp(), to_queries, to_visitors, None, None, None, None


def _logits(
    pairs: Pairs, vectors: torch.Tensor, keys: torch.Tensor, temperature: float, margin: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos / τ, −∞ where a candidate is of another group or masked, float32 [n, c]; and the counts."""
    cosines = torch.einsum(_products(vectors)[0], pairs.queries, vectors)
    text, partner, group = keys.unbind(dim=-1)
    query, target, own_group = (key[:, None] for key in pairs.keys.unbind(dim=-1))
    seen = group == own_group
    # Identical texts, and another answer to the same question.
    masked = (text == query) | (text == target) | (partner == query)
    if margin is not None:
        masked |= cosines > (pairs.queries * pairs.targets).sum(dim=1, keepdim=True) + margin
    counts = torch.stack([seen.sum(), (seen & masked).sum()])
    return cosines.div_(temperature).masked_fill_(~seen | masked, float("-inf")), counts


def _products(vectors: torch.Tensor) -> tuple[str, str, str]:
    return _SHARED if vectors.dim() == 2 else _OWN


def _blocks(pairs: Pairs, vectors: torch.Tensor) -> Iterator[slice]:
    """The candidates in blocks, so that neither scores [n, c] nor gradients [c, d] exceed BLOCK."""
    size = max(1, BLOCK // max(pairs.queries.shape))
    return (slice(first, first + size) for first in range(0, vectors.shape[-2], size))
