"""InfoNCE written out with loops, in the order of the formula: the reference for the loss and for every
gradient test."""

import torch

from mgh_ds.losses import InfoNCESettings
from mgh_ds.losses.base import Labels


def mean_loss(embeddings: torch.Tensor, labels: Labels, settings: InfoNCESettings) -> torch.Tensor:
    """The mean over the batch's valid records."""
    rows = [row for row in range(len(labels.valid)) if labels.valid[row]]
    return torch.stack([_row(embeddings, labels, row, settings) for row in rows]).mean()


def _row(embeddings: torch.Tensor, labels: Labels, row: int, settings: InfoNCESettings) -> torch.Tensor:
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
            scores.append(cosine / settings.temperature)
    loss = torch.logsumexp(torch.stack(scores), dim=0) - own
    if not (settings.symmetric and labels.symmetric[row]):
        return loss
    back = [own]
    for other in range(len(labels.valid)):
        taken = (
            int(labels.query_hash[other]) in own_texts
            or labels.document_hash[other, 0] == labels.document_hash[row, 0]
        )
        if other != row and labels.valid[other] and labels.group[other] == labels.group[row] and not taken:
            back.append(positive @ embeddings[other, 0] / settings.temperature)
    return (loss + torch.logsumexp(torch.stack(back), dim=0) - own) / 2
