"""InfoNCE with graded negatives, over all queries and documents of a negative group (paper, section 3.2; van
den Oord et al., "Representation learning with contrastive predictive coding", 2018).

    loss_i = −log e(q_i, p_i) / ( e(q_i, p_i) + Σ_j v(q_i, p_j) e(q_i, p_j) + Σ_jk v(q_i, n_jk) e(q_i, n_jk) )
    e(a, b) = exp(cos(a, b) / τ)
    v(a, b) = exp(α cos(a, b)) w

over the positives p_j and graded negatives n_jk of the group, on all its ranks, that are not masked. Read
from the positive back to the query, it is the same formula with queries in the sums. The weights v are 1
unless hardness α (Lan et al., "LLaVE: large language and vision embedding models with hardness-weighted
contrastive learning", 2025, arXiv 2503.04812) or the level's weight w, of a query's own negatives, say
otherwise. No gradient goes through them.

A guide, a frozen model g, masks what it takes for a positive (Solatorio, "GISTEmbed: guided in-sample
selection of training negatives for text embedding fine-tuning", 2024, arXiv 2402.16829), both ways:

    b is masked for a with the target t where cos(g(a), g(b)) > cos(g(a), g(t)) − m

up to rounding, so that what the guide cannot tell from the target is masked everywhere or nowhere.

The sums run over candidates that come by in blocks, whoever holds them, and are kept as logarithms; the
backward pass lets them come by again. So no more than one block of scores is ever held, and with a guide one
of its own.

Shapes: n queries on this rank, c candidates in a block, K negatives a record, dimension d, the guide's g.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from mgh_ds.losses.base import Labels, Loss, LossOutput, Ratio, constants
from mgh_ds.losses.gather import Candidates, Exchange
from mgh_ds.losses.keys import document_keys, pair_keys, query_keys, visibility
from mgh_ds.losses.settings import GuideSettings, InfoNCESettings

BLOCK = 2**24  # numbers in a block of scores, or in its candidates' gradient: 64 MiB of float32

# Of the guide's cosines, which products of other shapes, as with other numbers of ranks, give in other bits:
# those that differ by no more are the same.
ROUNDING = 1e-5

# Cosines, and their gradients for queries and for candidates, where all queries see the same candidates ...
_SHARED = ("nd,cd->nc", "nc,cd->nd", "nc,nd->cd")
# ... and where each query has its own.
_OWN = ("nd,ncd->nc", "nc,ncd->nd", "nc,nd->ncd")


class InfoNCE(Loss):
    """The formula above. Statistics: `masked_share`, of the candidates that the queries saw; with a guide
    `guided_share`, of those that the guide alone has masked."""

    settings: InfoNCESettings

    def __init__(
        self, settings: InfoNCESettings, exchange: Exchange, guide: GuideSettings | None = None
    ) -> None:
        super().__init__(settings, exchange)
        back = Weighing(settings.temperature, settings.hardness, guide=guide)
        self.guide, self.back = guide, back
        self.there = replace(
            back, margin=settings.false_negative_margin, level_weights=settings.level_weights
        )

    def __call__(self, embeddings: torch.Tensor, labels: Labels) -> LossOutput:
        # A rank sends only what queries of others see: positives, graded negatives unless they are for their
        # own query alone, and queries where positives are to find them again.
        valid, guide = labels.valid, self._guide_vectors(labels)
        documents = [embeddings[:, 1:], document_keys(labels), *(part[:, 1:] for part in guide)]
        if self.settings.own_negatives_only:
            sources = [
                self.exchange.candidates(*(part[:, 0] for part in documents)),
                Candidates(*(part[:, 1:] for part in documents)),
            ]
        else:
            sources = [self.exchange.candidates(*(part.flatten(0, 1) for part in documents))]
        pair = [part[:, :2] for part in guide]
        there = Pairs(embeddings[:, 0], embeddings[:, 1], pair_keys(labels, valid), *pair)
        losses, counts = info_nce(there, sources, self.there)
        total = losses.sum()
        if self.settings.symmetric:
            both_ways = labels.symmetric & valid
            queries = self.exchange.candidates(
                embeddings[:, 0], query_keys(labels), *(part[:, 0] for part in guide)
            )
            back = Pairs(
                embeddings[:, 1],
                embeddings[:, 0],
                pair_keys(labels, both_ways, back=True),
                *(part.flip(1) for part in pair),
            )
            losses_back, _ = info_nce(back, [queries], self.back)
            total = torch.where(labels.symmetric, losses / 2, losses).sum() + losses_back.sum() / 2
        seen, masked, by_guide = counts
        own = valid.sum()  # a positive is not its own negative
        statistics = {"masked_share": Ratio(masked - own, seen - own)}
        if self.guide is not None:
            statistics["guided_share"] = Ratio(by_guide, seen - own)
        return LossOutput(total, statistics)

    def _guide_vectors(self, labels: Labels) -> list[torch.Tensor]:
        """One tensor, or none where no guide masks."""
        if self.guide is None:
            return []
        assert labels.guide is not None, "a loss with a guide needs its vectors"
        return [labels.guide]


@dataclass(frozen=True)
class Weighing:
    """How much a candidate weighs in a query's sum."""

    temperature: float
    hardness: float = 0.0
    margin: float | None = None  # above the target's cosine, from which on a candidate is masked
    level_weights: Sequence[float] | None = None  # of the query's own negatives, the easiest level first
    guide: GuideSettings | None = None  # by which a candidate is masked

    def logits(self, pairs: "Pairs", candidates: Candidates) -> tuple[torch.Tensor, torch.Tensor]:
        """log(v e), −∞ where a candidate is of another group or masked, float32 [n, c]; and the counts of
        `info_nce`."""
        vectors, keys = candidates.vectors, candidates.keys
        cosines = torch.einsum(_products(vectors)[0], pairs.queries, vectors)
        seen, masked = visibility(pairs.keys, keys)
        if self.margin is not None:
            masked |= cosines > (pairs.queries * pairs.targets).sum(dim=1, keepdim=True) + self.margin
        by_guide = seen.new_zeros(1)
        if self.guide is not None:
            by_guide = seen & ~masked & self._of_guide(pairs, candidates)
            masked |= by_guide
        counts = torch.stack([seen.sum(), (seen & masked).sum(), by_guide.sum()])
        # What weighs a candidate is a constant factor of it, and so its logarithm a constant summand.
        logits = (
            cosines * (1 / self.temperature + self.hardness) if self.hardness else cosines / self.temperature
        )
        if self.level_weights is not None:
            logits += self._of_levels(pairs.keys, keys, logits)
        return logits.masked_fill_(~seen | masked, float("-inf")), counts

    def _of_guide(self, pairs: "Pairs", candidates: Candidates) -> torch.Tensor:
        """Which candidates the guide masks for each query, bool [n, c]."""
        assert self.guide is not None
        assert pairs.guide is not None
        assert candidates.guide is not None
        queries, targets = pairs.guide.unbind(dim=1)
        cosines = torch.einsum(_products(candidates.guide)[0], queries, candidates.guide)
        near = cosines > (queries * targets).sum(dim=1, keepdim=True) - self.guide.margin - ROUNDING
        if self.guide.own_negatives:
            return near
        return near & (candidates.keys[..., 1] != pairs.keys[:, :1])

    def _of_levels(self, pairs: torch.Tensor, keys: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Logarithms of the weights, [n, c]: 0 for what is no graded negative of the query's own."""
        assert self.level_weights is not None
        ungraded = 1.0
        weights = constants((ungraded, *self.level_weights), like.dtype, like.device).log()
        _, partner, _, standing = keys.unbind(dim=-1)
        own = partner == pairs[:, :1]
        return torch.where(own, weights[standing.clamp_min(0)], 0)


class Pairs(NamedTuple):
    """n queries, each with the target that it has to find; on the way back, positives and their queries.
    One of the group `NOBODY` has a loss of 0 and no gradient."""

    queries: torch.Tensor  # float32 [n, d], unit length
    targets: torch.Tensor  # float32 [n, d], unit length
    keys: torch.Tensor  # int64 [n, 3]: hash of the query, hash of the target, negative group
    guide: torch.Tensor | None = None  # float32 [n, 2, g]: query and target by the guide, if any


def info_nce(
    pairs: Pairs, sources: Sequence[Candidates], weighing: Weighing
) -> tuple[torch.Tensor, torch.Tensor]:
    """The queries' losses, float32 [n], and counts, int64 [3]: candidates that the queries saw, how many of
    these were masked, and how many by the guide alone.

    The targets themselves may be among the candidates; they are counted, and masked as identical texts.
    """
    own = (pairs.queries * pairs.targets).sum(dim=1)
    log_sum = own / weighing.temperature
    counts = torch.zeros(3, dtype=torch.int64, device=own.device)
    for source in sources:
        log_sum, more = _AddCandidates.apply(log_sum, pairs.queries, source.vectors, pairs, source, weighing)
        counts += more
    return log_sum - own / weighing.temperature, counts


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
        weighing: Weighing,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        before, counts = log_sum, torch.zeros(3, dtype=torch.int64, device=log_sum.device)
        for visitors in candidates.visits():
            for block in _blocks(pairs, vectors):
                logits, more = weighing.logits(pairs, visitors[block])
                log_sum = torch.logaddexp(log_sum, logits.logsumexp(dim=1))
                counts += more
        ctx.save_for_backward(before, log_sum, queries, vectors)
        ctx.arguments = pairs, candidates, weighing
        ctx.mark_non_differentiable(counts)
        return log_sum, counts

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _counts: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        before, log_sum, queries, vectors = ctx.saved_tensors
        pairs, candidates, weighing = ctx.arguments
        _, for_queries, for_candidates = _products(vectors)
        to_queries, to_visitors = torch.zeros_like(queries), torch.zeros_like(vectors)
        for visitors in candidates.visits():
            for block in _blocks(pairs, vectors):
                part = visitors[block]
                logits, _ = weighing.logits(pairs, part)
                weight = (logits - log_sum[:, None]).exp_().mul_(gradient[:, None] / weighing.temperature)
                to_queries += torch.einsum(for_queries, weight, part.vectors)
                to_visitors[..., block, :] += torch.einsum(for_candidates, weight, queries)
            to_visitors = candidates.ring.pass_on(to_visitors)
        return gradient * (before - log_sum).exp(), to_queries, to_visitors, None, None, None


def _products(vectors: torch.Tensor) -> tuple[str, str, str]:
    return _SHARED if vectors.dim() == 2 else _OWN


def _blocks(pairs: Pairs, vectors: torch.Tensor) -> Iterator[slice]:
    """The candidates in blocks, so that neither scores [n, c] nor gradients [c, d] exceed BLOCK."""
    size = max(1, BLOCK // max(pairs.queries.shape))
    return (slice(first, first + size) for first in range(0, vectors.shape[-2], size))
