"""From this rank's embeddings of a global batch to the step's figures and a scalar to differentiate."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from mgh_ds.common.errors import MghError
from mgh_ds.distributed.group import all_sum, gather_objects, rank, world_size
from mgh_ds.losses.base import Labels, Loss
from mgh_ds.records.levels import LEVELS
from mgh_ds.training.batch import Batch


class NotFiniteError(MghError):
    """A step whose numbers are no numbers: what is not finite, and the records that it may come from."""

    def __init__(self, what: str, ids: Sequence[str]) -> None:
        self.what, self.ids = what, sorted(name for name in ids if name)
        super().__init__(f"{what}; records at fault: {', '.join(self.ids)}")


def objective(
    embeddings: torch.Tensor, batches: Sequence[Batch], loss: Loss
) -> tuple[dict[str, Any], torch.Tensor]:
    """The step's figures, and a scalar whose gradient, averaged over the ranks, is the global mean loss's.

    Args:
        embeddings: float32 [n, 2 + K, d], unit length: query, positive and negatives of this rank's records.
        batches: the micro-batches that they come from, on the embeddings' device.
        loss: the loss.

    Raises NotFiniteError on every rank when one has a number that is none, before any backward pass.
    """
    labels = Labels.cat([batch.labels for batch in batches])
    _check_groups(batches, loss.exchange.negative_groups)
    _check_embeddings(embeddings, batches)
    total, statistics = loss(embeddings, labels)

    ratios = [number for ratio in statistics.values() for number in ratio]
    sums = all_sum(torch.stack([total.detach(), labels.valid.sum(), *ratios]).double())
    loss_sum, records, *ratio_sums = sums.tolist()
    if records == 0:
        raise MghError("a global batch without a single record: the plan and the store do not fit together")
    levels = all_sum(level_statistics(embeddings, labels))
    mean = loss_sum / records
    if not math.isfinite(mean):
        raise NotFiniteError(f"the loss is {mean}", all_ids(batches))
    pairs = zip(ratio_sums[::2], ratio_sums[1::2], strict=True)
    figures = {
        "loss": mean,
        "statistics": {
            name: above / below if below else 0.0
            for name, (above, below) in zip(statistics, pairs, strict=True)
        },
        "levels": _level_figures(levels),
        "records": int(records),
    }
    return figures, total * (world_size() / records)


def all_ids(batches: Sequence[Batch]) -> list[str]:
    """The record ids of every rank's micro-batches, in rank order; an empty place's is ""."""
    return _joined(gather_objects(_ids(batches)))


def level_statistics(embeddings: torch.Tensor, labels: Labels) -> torch.Tensor:
    """How far a query's own negatives stand below its positive, by level.

    Args:
        embeddings: float32 [n, 2 + K, d], unit length.
        labels: of the same records.

    Returns float64 [1 + levels, 3]: for ungraded negatives and for each level the count of negatives, how
    many score below the positive, and the sum of the margins cos(q, positive) − cos(q, negative).
    """
    query = embeddings.detach()[:, 0]
    cosines = torch.einsum("nd,nkd->nk", query, embeddings.detach()[:, 1:]).double()
    margins = cosines[:, :1] - cosines[:, 1:]
    real = labels.document_valid[:, 1:]
    table = torch.zeros(1 + len(LEVELS), 3, dtype=torch.float64, device=embeddings.device)
    for column, values in enumerate([torch.ones_like(margins), (margins > 0).double(), margins]):
        table[:, column].index_add_(0, labels.levels[real], values[real])
    return table


def _level_figures(table: torch.Tensor) -> dict[str, dict[str, float]]:
    rows = enumerate(table.tolist())
    return {
        str(level): {"accuracy": below / count, "margin": margin / count, "count": int(count)}
        for level, (count, below, margin) in rows
        if count
    }


def _check_groups(batches: Sequence[Batch], groups: int) -> None:
    """Ranks of different negative groups exchange nothing: records on the wrong one would miss their
    candidates."""
    found = {batch.group for batch in batches if any(batch.ids)}
    if world_size() % groups == 0 and found - {rank() % groups}:
        raise MghError(
            f"rank {rank()} works on negative group {rank() % groups} of {groups}, but was assigned "
            f"records of groups {sorted(found)}"
        )


def _check_embeddings(embeddings: torch.Tensor, batches: Sequence[Batch]) -> None:
    finite = embeddings.detach().isfinite().flatten(1).all(dim=1)
    if all_sum((~finite).sum()).item() == 0:
        return
    mine = [name for name, good in zip(_ids(batches), finite.tolist(), strict=True) if not good]
    raise NotFiniteError("an embedding is not finite", _joined(gather_objects(mine)))


def _ids(batches: Sequence[Batch]) -> list[str]:
    return [name for batch in batches for name in batch.ids]


def _joined(lists: list[list[str]]) -> list[str]:
    return [name for part in lists for name in part]
