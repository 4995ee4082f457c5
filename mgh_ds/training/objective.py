"""From this rank's embeddings of a global batch to its part of the step's figures and a scalar to
differentiate."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from mgh_ds.common.errors import MghError
from mgh_ds.distributed.group import rank, world_size
from mgh_ds.losses.base import Labels, Loss
from mgh_ds.records.levels import LEVELS
from mgh_ds.training.batch import Batch


class Objective(NamedTuple):
    """Everything lies on the device, and nothing of it was read by the host."""

    scalar: torch.Tensor  # whose gradient, averaged over the ranks, is that of the global mean loss
    figures: dict[str, torch.Tensor]  # float64, of this rank, to be added up over the ranks
    statistics: tuple[str, ...]  # the loss's, whose numerators and denominators are figures["statistics"]
    finite: torch.Tensor  # bool [n]: whether a record's embeddings are


def objective(embeddings: torch.Tensor, batches: Sequence[Batch], loss: Loss, records: int) -> Objective:
    """The loss of this rank's records, with what is reported of it.

    A number that is none makes the scalar, and with it every gradient, NaN, even where the loss would hide
    it: the optimiser then leaves all weights as they are, on all ranks.

    Args:
        embeddings: float32 [n, 2 + K, d], unit length: query, positive and negatives of this rank's records.
        batches: the micro-batches that they come from, on the embeddings' device.
        loss: the loss.
        records: of the global batch, on all ranks together.
    """
    labels = Labels.cat([batch.labels for batch in batches])
    _check_groups(batches, loss.exchange.negative_groups)
    finite = embeddings.detach().isfinite().flatten(1).all(dim=1)
    total, statistics = loss(embeddings, labels)
    ratios = [torch.stack(list(ratio)).double() for ratio in statistics.values()]
    figures = {
        "loss": total.detach(),
        "not_finite": (~finite).sum(),
        "levels": level_statistics(embeddings, labels),
        "statistics": torch.stack(ratios) if ratios else total.new_zeros(0, 2),
    }
    sound = finite.all() & total.detach().isfinite()
    scale = torch.where(sound, world_size() / records, math.nan)
    return Objective(total * scale, figures, tuple(statistics), finite)


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
        # Zeros for empty places, rather than a selection, whose size the host would wait for.
        table[:, column].index_add_(0, labels.levels.flatten(), torch.where(real, values, 0.0).flatten())
    return table


def _check_groups(batches: Sequence[Batch], groups: int) -> None:
    """Ranks of different negative groups exchange nothing: records on the wrong one would miss their
    candidates."""
    found = {batch.group for batch in batches if any(batch.ids)}
    if world_size() % groups == 0 and found - {rank() % groups}:
        raise MghError(
            f"rank {rank()} works on negative group {rank() % groups} of {groups}, but was assigned "
            f"records of groups {sorted(found)}"
        )
