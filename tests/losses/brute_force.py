"""Every loss written out with loops, in the order of its formula: the reference for the losses and for every
gradient test."""

import math
from typing import Any

import torch

from mgh_ds.losses.base import Labels
from mgh_ds.losses.settings import (
    CosentSettings,
    DistillSettings,
    GuideSettings,
    InfoNCESettings,
    LevelMarginSettings,
    ListwiseSettings,
    LossSettings,
    MatryoshkaSettings,
    WeightedSumSettings,
)

Guide = GuideSettings | None


def mean_loss(
    embeddings: torch.Tensor, labels: Labels, settings: LossSettings, guide: Guide = None
) -> torch.Tensor:
    """The mean over the batch's valid records, of the loss that the settings name."""
    rows = [row for row in range(len(labels.valid)) if labels.valid[row]]
    # In the graph even where every record's loss is 0.
    nothing = 0 * embeddings.sum()
    return (
        torch.stack([_of_record(embeddings, labels, row, settings, guide) for row in rows]).mean() + nothing
    )


def _of_record(
    embeddings: torch.Tensor, labels: Labels, row: int, settings: Any, guide: Guide
) -> torch.Tensor:
    if isinstance(settings, WeightedSumSettings):
        return sum(
            (term.weight * _of_record(embeddings, labels, row, term.loss, guide) for term in settings.terms),
            embeddings.new_zeros(()),
        )
    if isinstance(settings, MatryoshkaSettings):
        total = embeddings.new_zeros(())
        for place, width in enumerate(settings.dims):
            short = embeddings[..., :width]
            if width < embeddings.shape[-1]:
                short = short / short.square().sum(dim=-1, keepdim=True).sqrt()
            weight = settings.weights[place] if settings.weights else 1
            total = total + weight * _of_record(short, labels, row, settings.loss, guide)
        return total
    if isinstance(settings, InfoNCESettings):
        return info_nce(embeddings, labels, row, settings, guide)
    formulas: dict[type, Any] = {
        ListwiseSettings: listwise,
        LevelMarginSettings: level_margin,
        DistillSettings: distill,
        CosentSettings: cosent,
    }
    return formulas[type(settings)](embeddings, labels, row, settings)


def info_nce(
    embeddings: torch.Tensor, labels: Labels, row: int, settings: InfoNCESettings, guide: Guide = None
) -> torch.Tensor:
    def guided(asks: int, other: int, place: int) -> bool:
        """Whether the guide masks a text for the query (0) or the positive (1) of this row."""
        if guide is None:
            return False
        assert labels.guide is not None
        own_query, own_positive = labels.guide[row, 0], labels.guide[row, 1]
        cosine = labels.guide[row, asks] @ labels.guide[other, place]
        return bool(cosine > own_query @ own_positive - guide.margin - 1e-5)

    query, positive = embeddings[row, 0], embeddings[row, 1]
    own = (query @ positive) / settings.temperature
    own_texts = {int(labels.query_hash[row]), int(labels.document_hash[row, 0])}
    scores = [own]
    for other in range(len(labels.valid)):
        for place in range(labels.document_valid.shape[1]):
            if (other == row and place == 0) or labels.group[other] != labels.group[row]:
                continue
            if (
                not labels.document_valid[other, place]
                or int(labels.document_hash[other, place]) in own_texts
            ):
                continue
            if place == 0 and labels.query_hash[other] == labels.query_hash[row]:
                continue
            if settings.own_negatives_only and place > 0 and other != row:
                continue
            cosine = query @ embeddings[other, 1 + place]
            margin = settings.false_negative_margin
            if margin is not None and cosine > query @ positive + margin:
                continue
            own_query = labels.query_hash[other] == labels.query_hash[row]
            if guide and guided(0, other, 1 + place) and (guide.own_negatives or not own_query):
                continue
            score = cosine / settings.temperature + settings.hardness * cosine.detach()
            if settings.level_weights and place > 0 and own_query and labels.levels[other, place - 1] > 0:
                weight = settings.level_weights[int(labels.levels[other, place - 1]) - 1]
                score = score + torch.tensor(weight, dtype=score.dtype).log()
            scores.append(score)
    loss = torch.logsumexp(torch.stack(scores), dim=0) - own
    if not (settings.symmetric and labels.symmetric[row]):
        return loss
    back = [own]
    for other in range(len(labels.valid)):
        taken = (
            int(labels.query_hash[other]) in own_texts
            or labels.document_hash[other, 0] == labels.document_hash[row, 0]
        )
        taken = taken or guided(1, other, 0)
        if other != row and labels.valid[other] and labels.group[other] == labels.group[row] and not taken:
            cosine = positive @ embeddings[other, 0]
            back.append(cosine / settings.temperature + settings.hardness * cosine.detach())
    return (loss + torch.logsumexp(torch.stack(back), dim=0) - own) / 2


def _list(
    embeddings: torch.Tensor, labels: Labels, row: int, settings: ListwiseSettings
) -> list[tuple[torch.Tensor, int, int]]:
    """Cosine, relevance and number among all documents of what is in a query's list; empty if the record has
    no graded negative."""
    query, levels, there = embeddings[row, 0], labels.levels[row].tolist(), labels.document_valid[row]
    if not labels.valid[row] or not any(level > 0 and there[1 + place] for place, level in enumerate(levels)):
        return []
    found = [
        (query @ embeddings[row, 1 + place], relevance, row * len(there) + place)
        for place, relevance in enumerate([5, *levels])
        if there[place]
    ]
    own = {int(labels.document_hash[row, place]) for place in range(len(there)) if there[place]}
    for other in range(len(labels.valid)) if settings.others else []:
        for place in range(len(there)):
            text = int(labels.document_hash[other, place])
            if (
                other != row
                and labels.document_valid[other, place]
                and labels.group[other] == labels.group[row]
                and text not in own
                and text not in (int(labels.query_hash[row]), int(labels.document_hash[row, 0]))
                and not (place == 0 and labels.query_hash[other] == labels.query_hash[row])
            ):
                found.append((query @ embeddings[other, 1 + place], 0, other * len(there) + place))
    return found


def listwise(embeddings: torch.Tensor, labels: Labels, row: int, settings: ListwiseSettings) -> torch.Tensor:
    own = _list(embeddings, labels, row, settings)
    if not own:
        return embeddings.new_zeros(())
    gains = [settings.gain_base**relevance - 1 for _, relevance, _ in own]
    scores = [cosine / settings.temperature for cosine, *_ in own]
    if settings.kind == "listnet":
        normaliser = torch.stack(scores).logsumexp(dim=0)
        parts = [gain / sum(gains) * (normaliser - s) for gain, s in zip(gains, scores, strict=True)]
        return torch.stack(parts).sum()
    if settings.kind == "lambda":
        order = sorted(range(len(own)), key=lambda place: (-scores[place].item(), place))
        discount = {place: 1 / math.log2(2 + rank) for rank, place in enumerate(order)}
        best = sum(gain / math.log2(2 + rank) for rank, gain in enumerate(sorted(gains, reverse=True)))
        total = embeddings.new_zeros(())
        for j in range(len(own)):
            for k in range(len(own)):
                if own[j][1] > own[k][1]:
                    weight = (gains[j] - gains[k]) * abs(discount[j] - discount[k]) / best
                    total = total + weight * torch.log2(1 + torch.exp(scores[k] - scores[j]))
        return total
    return wasserstein(embeddings, labels, int(labels.group[row]), settings)


def wasserstein(
    embeddings: torch.Tensor, labels: Labels, group: int, settings: ListwiseSettings
) -> torch.Tensor:
    """Of the lists of a group. Their places are the sorted levels, or the documents of all records; the
    square root of a matrix is taken as it is defined."""
    records, documents = labels.document_valid.shape
    wide = records * documents if settings.others else documents
    rows, targets = [], []
    for row in range(records):
        own = _list(embeddings, labels, row, settings)
        if not own or labels.group[row] != group:
            continue
        shares = torch.stack([cosine / settings.temperature for cosine, *_ in own]).softmax(dim=0)
        gains = [settings.gain_base**relevance - 1 for _, relevance, _ in own]
        x, t = [embeddings.new_zeros(())] * wide, [0.0] * wide
        if settings.others:
            places = [number for *_, number in own]
        else:
            order = sorted(range(len(own)), key=lambda place: (-own[place][1], place))
            places = [order.index(place) for place in range(len(own))]
        for place, share, gain in zip(places, shares, gains, strict=True):
            x[place], t[place] = share, gain / sum(gains)
        rows.append(torch.stack(x))
        targets.append(torch.tensor(t, dtype=embeddings.dtype))
    x, t = torch.stack(rows), torch.stack(targets)
    covariance_x, covariance_t = _covariance(x), _covariance(t)
    values, vectors = torch.linalg.eigh(covariance_t)
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    inner = torch.linalg.eigvalsh(root @ covariance_x @ root)
    shared = inner[inner > inner.detach().max() * 1e-10].clamp_min(0).sqrt().sum()
    return (
        (x.mean(dim=0) - t.mean(dim=0)).square().sum()
        + covariance_x.trace()
        + covariance_t.trace()
        - 2 * shared
    )


def _covariance(rows: torch.Tensor) -> torch.Tensor:
    away = rows - rows.mean(dim=0)
    return away.T @ away / max(len(rows) - 1, 1)


def level_margin(
    embeddings: torch.Tensor, labels: Labels, row: int, settings: LevelMarginSettings
) -> torch.Tensor:
    def cost(lacking: torch.Tensor) -> torch.Tensor:
        if settings.kind == "hinge":
            return lacking.clamp_min(0)
        return settings.softness * torch.log(1 + torch.exp(lacking / settings.softness))

    query, positive = embeddings[row, 0], embeddings[row, 1]
    graded = [
        (int(level), query @ embeddings[row, 2 + place])
        for place, level in enumerate(labels.levels[row])
        if level > 0 and labels.document_valid[row, 1 + place]
    ]
    below = [cost(settings.margins[level - 1] - query @ positive + cosine) for level, cosine in graded]
    order = [
        cost(settings.order_margin - harder + easier)
        for high, harder in graded
        for low, easier in graded
        if high == low + 1
    ]
    zero = embeddings.new_zeros(())
    return (torch.stack(below).mean() if below else zero) + settings.order_weight * (
        torch.stack(order).mean() if order else zero
    )


def distill(embeddings: torch.Tensor, labels: Labels, row: int, settings: DistillSettings) -> torch.Tensor:
    there = [
        place
        for place in range(labels.document_valid.shape[1])
        if labels.document_valid[row, place] and not labels.scores[row, place].isnan()
    ]
    if 0 not in there or len(there) < 2:
        return embeddings.new_zeros(())
    scores = {p: embeddings[row, 0] @ embeddings[row, 1 + p] / settings.temperature for p in there}
    wanted = {p: labels.scores[row, p].item() / settings.teacher_temperature for p in there}
    if settings.kind == "margin_mse":
        squares = [((scores[0] - scores[p]) - (wanted[0] - wanted[p])) ** 2 for p in there if p != 0]
        return torch.stack(squares).mean()
    whole = sum(math.exp(score) for score in wanted.values())
    normaliser = torch.stack(list(scores.values())).logsumexp(dim=0)
    total = embeddings.new_zeros(())
    for p in there:
        share = math.exp(wanted[p]) / whole
        total = total + share * (math.log(share) - (scores[p] - normaliser))
    return total


def cosent(embeddings: torch.Tensor, labels: Labels, row: int, settings: CosentSettings) -> torch.Tensor:
    def similarity(record: int) -> torch.Tensor:
        query, positive = embeddings[record, 0], embeddings[record, 1]
        if settings.similarity == "cosine":
            return query @ positive
        half = len(query) // 2
        z, w = torch.complex(query[:half], query[half:]), torch.complex(positive[:half], positive[half:])
        product = z * w.conj()
        return (product.real + product.imag).sum().abs()

    rows = [
        other
        for other in range(len(labels.valid))
        if labels.valid[other]
        and labels.group[other] == labels.group[row]
        and not labels.scores[other, 0].isnan()
    ]
    total = embeddings.new_ones(())
    if row not in rows:
        return total - 1
    for i in rows:
        for j in rows:
            if labels.scores[i, 0] > labels.scores[j, 0]:
                total = total + torch.exp((similarity(j) - similarity(i)) / settings.temperature)
    return total.log()
