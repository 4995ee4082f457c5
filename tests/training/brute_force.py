"""InfoNCE written out with loops, in the order of the formula: the reference for the loss and for every
gradient test."""

import torch

from mgh_ds.training.config import LossConfig
from mgh_ds.training.loss import Pool


def mean_loss(pool: Pool, config: LossConfig) -> torch.Tensor:
    """The mean over the pool's valid slots."""
    rows = [slot for slot in range(len(pool.valid)) if pool.valid[slot]]
    return torch.stack([_row(pool, slot, config) for slot in rows]).mean()


def _row(pool: Pool, slot: int, config: LossConfig) -> torch.Tensor:
    query, positive = pool.embeddings[slot, 0], pool.embeddings[slot, 1]
    own = (query @ positive) / config.temperature
    own_texts = {int(pool.query_hash[slot]), int(pool.document_hash[slot, 0])}
    scores = [own]
    for other in range(len(pool.valid)):
        for place in range(pool.document_valid.shape[1]):
            if other == slot and place == 0:
                continue
            if not pool.document_valid[other, place] or int(pool.document_hash[other, place]) in own_texts:
                continue
            if place == 0 and pool.query_hash[other] == pool.query_hash[slot]:
                continue
            if config.own_negatives_only and place > 0 and other != slot:
                continue
            cosine = query @ pool.embeddings[other, 1 + place]
            margin = config.false_negative_margin
            if margin is not None and cosine > query @ positive + margin:
                continue
            scores.append(cosine / config.temperature)
    loss = torch.logsumexp(torch.stack(scores), dim=0) - own
    if not (config.symmetric and pool.symmetric[slot]):
        return loss
    back = [own]
    for other in range(len(pool.valid)):
        taken = (
            int(pool.query_hash[other]) in own_texts
            or pool.document_hash[other, 0] == pool.document_hash[slot, 0]
        )
        if other != slot and pool.valid[other] and not taken:
            back.append(positive @ pool.embeddings[other, 0] / config.temperature)
    return (loss + torch.logsumexp(torch.stack(back), dim=0) - own) / 2
