"""List-wise losses: a query's positive and graded negatives are a list, and its order is to be learnt.

Over the places j of a list with cosines s_j, relevance r_j and gains g_j = b^r_j − 1:

    listnet       −Σ_j t_j log softmax(s / τ)_j                            t_j = g_j / Σ g
    lambda        Σ_{r_j > r_k} |g_j − g_k| |1/D_j − 1/D_k| / maxDCG · log2(1 + exp((s_k − s_j) / τ))
    wasserstein   ‖μ_x − μ_t‖² + tr(Σ_x + Σ_t − 2 (Σ_x Σ_t)^½)             x = softmax(s / τ)

D_j = log2(1 + rank of s_j). μ and Σ are mean and covariance over the lists of the negative group, so the
last one is a property of the group and not of a list: each of its lists has the same share of it.

listnet: Cao et al., "Learning to rank: from pairwise approach to listwise approach", 2007, with the gains of
nDCG as targets. lambda: Wang et al., "The LambdaLoss framework for ranking metric optimization", 2018, with
LambdaRank's weights. wasserstein: Esfandiarpoor et al., "Beyond contrastive learning: synthetic data enables
list-wise training with multiple levels of relevance", 2025 (arXiv 2503.23239), whose targets are the softmax
of the relevance; with gain_base e, these are nearly the same.

Shapes: n lists on this rank, N in all of its negative group's, L places in a list.
"""

import math
from typing import Any

import torch

from mgh_ds.losses.base import Labels, Loss, LossOutput, Ratio
from mgh_ds.losses.keys import NO_GROUP
from mgh_ds.losses.lists import GradedLists, group_lists, own_lists
from mgh_ds.losses.settings import ListwiseSettings


class Listwise(Loss):
    """The formulas above. Statistics: `ndcg`, mean over the lists, all of their documents ranked."""

    settings: ListwiseSettings

    def __call__(self, embeddings: torch.Tensor, labels: Labels) -> LossOutput:
        settings = self.settings
        if settings.others:
            lists = group_lists(embeddings, labels, self.exchange)
        else:
            lists = own_lists(embeddings, labels)
        gains = lists.gains(settings.gain_base)
        if settings.kind == "listnet":
            losses = list_net(lists, gains, settings.temperature)
        elif settings.kind == "lambda":
            losses = lambda_loss(lists, gains, settings.temperature)
        else:
            losses = self._wasserstein(lists, gains, labels)
        there = lists.present.any(dim=1)
        return LossOutput(losses.sum(), {"ndcg": Ratio(ndcg(lists, gains).sum(), there.sum())})

    def _wasserstein(self, lists: GradedLists, gains: torch.Tensor, labels: Labels) -> torch.Tensor:
        """Of each list, [n]: its negative group's distance."""
        if not self.settings.others:
            # Places of a list stand for levels, wherever the record has them.
            lists = lists.sorted()
            gains = lists.gains(self.settings.gain_base)
        scores = torch.where(lists.present, _log_softmax(lists, self.settings.temperature).exp(), 0)
        targets = gains / _total(gains)[:, None]
        group = torch.where(lists.present.any(dim=1), labels.group, NO_GROUP)
        all_scores, all_targets, all_groups = map(self.exchange.gather, (scores, targets, group))
        losses = torch.zeros_like(scores[:, 0])
        for number in range(self.exchange.negative_groups):
            distance = _distance(all_scores, all_targets, all_groups == number)
            losses = losses + torch.where(group == number, distance, 0)
        return losses


def list_net(lists: GradedLists, gains: torch.Tensor, temperature: float) -> torch.Tensor:
    """The formula above, [n]."""
    logarithms = torch.where(lists.present, _log_softmax(lists, temperature), 0)
    return -(gains * logarithms).sum(dim=1) / _total(gains)


def lambda_loss(lists: GradedLists, gains: torch.Tensor, temperature: float) -> torch.Tensor:
    """The formula above, [n]. Only a query's own documents stand above others: pairs are [n, 1 + K, L]."""
    scores = lists.cosines / temperature
    discounts = _discounts(_ranks(lists), scores.dtype)
    # The places with a gain come first.
    best = gains.argsort(dim=1, descending=True, stable=True)[:, : lists.own]
    above, gain, discount = (part.gather(1, best)[:, :, None] for part in (scores, gains, discounts))
    weights = (gain - gains[:, None]).clamp_min(0) * (discount - discounts[:, None]).abs()
    pairs = torch.nn.functional.softplus(scores[:, None] - above) / math.log(2)
    pairs = torch.where(lists.present[:, None] & (weights > 0), weights * pairs, 0)
    return pairs.sum(dim=(1, 2)) / _ideal(gains)


def ndcg(lists: GradedLists, gains: torch.Tensor) -> torch.Tensor:
    """Normalised discounted cumulative gain of each list, [n]; 0 of one that is not there."""
    gained = (gains * _discounts(_ranks(lists), gains.dtype)).sum(dim=1)
    return gained / _ideal(gains)


def _log_softmax(lists: GradedLists, temperature: float) -> torch.Tensor:
    """Over the places that are there; of a list without any, something finite."""
    least = torch.finfo(lists.cosines.dtype).min
    return (lists.cosines / temperature).masked_fill(~lists.present, least).log_softmax(dim=1)


def _ranks(lists: GradedLists) -> torch.Tensor:
    """Of the places by their cosines, from 1 on, those that are not there last; equal ones in their order."""
    scores = lists.cosines.detach().masked_fill(~lists.present, float("-inf"))
    order = scores.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(1, 1 + order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _discounts(ranks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """1 / D, of the ranks' shape."""
    return 1 / torch.log2(1 + ranks.to(dtype))


def _ideal(gains: torch.Tensor) -> torch.Tensor:
    """The DCG of lists in the best order, [n]; 1 of a list that is not there."""
    ranks = torch.arange(1, 1 + gains.shape[1], device=gains.device)
    return _total(gains.sort(dim=1, descending=True).values * _discounts(ranks, gains.dtype))


def _total(gains: torch.Tensor) -> torch.Tensor:
    """What lists have together, [n]; 1 of a list that is not there, so that it may be divided by."""
    total = gains.sum(dim=1)
    return total.masked_fill(total == 0, 1)


def _distance(scores: torch.Tensor, targets: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Squared 2-Wasserstein distance of two Gaussians with mean and covariance of the rows, [N, L], that are
    `which`; scalar."""
    weight = which.to(scores.dtype)[:, None]
    count = weight.sum()
    means = [(part * weight).sum(dim=0) / count.clamp_min(1) for part in (scores, targets)]
    spread = (weight / (count - 1).clamp_min(1)).sqrt()
    roots = [(part - mean) * spread for part, mean in zip((scores, targets), means, strict=True)]
    # With covariances AᵀA and BᵀB, tr(Σ_x Σ_t)^½ is the sum of the singular values of A Bᵀ, and of A Rᵀ where
    # B = QR, which is no wider than a list is long.
    triangle = torch.linalg.qr(roots[1], mode="r").R
    shared = _NuclearNorm.apply(roots[0] @ triangle.T)
    return (means[0] - means[1]).square().sum() + sum(root.square().sum() for root in roots) - 2 * shared


class _NuclearNorm(torch.autograd.Function):
    """Sum of the singular values. Its gradient U Vᵀ leaves out the values that are 0, at which it has none of
    its own and a general one would divide by differences of values. Both are NaN of a matrix that is not
    finite, which would end the decomposition with an error, and not the step alone."""

    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor) -> torch.Tensor:
        finite = matrix.isfinite().all()
        left, values, right = torch.linalg.svd(torch.where(finite, matrix.double(), 0.0), full_matrices=False)
        least = values.amax() * max(matrix.shape) * torch.finfo(matrix.dtype).eps
        gradient = (left * (values > least)) @ right
        ctx.save_for_backward(torch.where(finite, gradient, torch.nan).to(matrix.dtype))
        return torch.where(finite, values.sum(), torch.nan).to(matrix.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * ctx.saved_tensors[0]
