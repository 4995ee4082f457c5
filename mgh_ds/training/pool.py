"""The loss of one step: from this rank's embeddings, through the pool of all ranks, to a figure and a
gradient."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mgh_ds.curriculum.loader import MicroBatch
from mgh_ds.errors import MghError
from mgh_ds.training.config import LossConfig
from mgh_ds.training.distributed import all_sum, device, gather_objects, rank, world_size
from mgh_ds.training.gather import gather, gather_with_gradient
from mgh_ds.training.loss import Pool, info_nce, level_statistics


class NotFiniteError(MghError):
    """A step whose numbers are no numbers, with the ids of the records that were in it."""

    def __init__(self, what: str, ids: Sequence[str]) -> None:
        self.ids = [name for name in ids if name]
        super().__init__(f"{what}; records of the batch at fault: {', '.join(self.ids)}")


def pool_loss(
    embeddings: torch.Tensor, batches: Sequence[MicroBatch], config: LossConfig
) -> tuple[dict[str, Any], torch.Tensor]:
    """The step's figures, and a scalar whose gradient, averaged over the ranks, is the global mean loss's.

    Args:
        embeddings: float32 [n, 2 + K, d], unit length: query, positive and negatives of this rank's slots.
        batches: the micro-batches that they come from.

    Raises NotFiniteError on every rank when one has a number that is none, before any backward pass.
    """
    _check_embeddings(embeddings, batches)
    document_valid = _stack(batches, "document_valid")
    pool = Pool(
        embeddings=gather_with_gradient(embeddings),
        valid=gather(_stack(batches, "valid")),
        document_valid=gather(document_valid),
        query_hash=gather(_stack(batches, "query_hash")),
        document_hash=gather(_stack(batches, "document_hash")),
        symmetric=gather(_stack(batches, "symmetric")),
    )
    first = rank() * len(embeddings)
    output = info_nce(pool, slice(first, first + len(embeddings)), config)
    records = int(pool.valid.sum())
    if records == 0:
        raise MghError("a global batch without a single record: the plan and the store do not fit together")

    sums = all_sum(torch.stack([output.loss_sum.detach(), output.masked, output.candidates]).double())
    levels = all_sum(level_statistics(embeddings, _stack(batches, "levels"), document_valid))
    loss = sums[0].item() / records
    if not math.isfinite(loss):
        raise NotFiniteError(f"the loss is {loss}", all_ids(batches))
    figures = {
        "loss": loss,
        "masked_share": (sums[1] / sums[2].clamp(min=1)).item(),
        "levels": _level_figures(levels),
        "records": records,
    }
    return figures, output.loss_sum * (world_size() / records)


def all_ids(batches: Sequence[MicroBatch]) -> list[str]:
    """The record ids of every rank's micro-batches, in rank order; an empty slot's is ""."""
    return _joined(gather_objects(_ids(batches)))


def _level_figures(table: torch.Tensor) -> dict[str, dict[str, float]]:
    rows = enumerate(table.tolist())
    return {
        str(level): {"accuracy": below / count, "margin": margin / count, "count": int(count)}
        for level, (count, below, margin) in rows
        if count
    }


def _stack(batches: Sequence[MicroBatch], name: str) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([getattr(batch, name) for batch in batches])).to(device())


def _check_embeddings(embeddings: torch.Tensor, batches: Sequence[MicroBatch]) -> None:
    finite = embeddings.detach().isfinite().flatten(1).all(dim=1)
    if all_sum((~finite).sum()).item() == 0:
        return
    mine = [name for name, good in zip(_ids(batches), finite.tolist(), strict=True) if not good]
    raise NotFiniteError("an embedding is not finite", _joined(gather_objects(mine)))


def _ids(batches: Sequence[MicroBatch]) -> list[str]:
    return [name for batch in batches for name in batch.ids]


def _joined(lists: list[list[str]]) -> list[str]:
    return [name for part in lists for name in part]
