"""InfoNCE written out with loops, in the order of the formula: the reference for the loss and for every
gradient test."""

import torch

from mgh_ds.training.config import LossConfig
from mgh_ds.training.pool import Slots


def mean_loss(batch: Slots, config: LossConfig) -> torch.Tensor:
    """The mean over the batch's valid slots."""
    rows = [slot for slot in range(len(batch.valid)) if batch.valid[slot]]
    return torch.stack([_row(batch, slot, config) for slot in rows]).mean()


def _row(batch: Slots, slot: int, config: LossConfig) -> torch.Tensor:
    query, positive = batch.embeddings[slot, 0], batch.embeddings[slot, 1]
    own = (query @ positive) / config.temperature
    own_texts = {int(batch.query_hash[slot]), int(batch.document_hash[slot, 0])}
    scores = [own]
    for other in range(len(batch.valid)):
        for place in range(batch.document_valid.shape[1]):
            if (other == slot and place == 0) or batch.pool[other] != batch.pool[slot]:
                continue
            if not batch.document_valid[other, place] or int(batch.document_hash[other, place]) in own_texts:
                continue
            if place == 0 and batch.query_hash[other] == batch.query_hash[slot]:
                continue
            if config.own_negatives_only and place > 0 and other != slot:
                continue
            cosine = query @ batch.embeddings[other, 1 + place]
            margin = config.false_negative_margin
            if margin is not None and cosine > query @ positive + margin:
                continue
            scores.append(cosine / config.temperature)
    loss = torch.logsumexp(torch.stack(scores), dim=0) - own
    if not (config.symmetric and batch.symmetric[slot]):
        return loss
    back = [own]
    for other in range(len(batch.valid)):
        taken = (
            int(batch.query_hash[other]) in own_texts
            or batch.document_hash[other, 0] == batch.document_hash[slot, 0]
        )
        if other != slot and batch.valid[other] and batch.pool[other] == batch.pool[slot] and not taken:
            back.append(positive @ batch.embeddings[other, 0] / config.temperature)
    return (loss + torch.logsumexp(torch.stack(back), dim=0) - own) / 2
