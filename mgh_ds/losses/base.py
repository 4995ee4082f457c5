"""What the trainer knows of a loss: embeddings and labels of this rank's records in, a summed loss and named
statistics out.

A loss may look at other ranks' embeddings through its `Exchange`; how many ranks there are, and whether the
embeddings came in chunks, is nothing that it has to know.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from mgh_ds.losses.gather import Exchange


@dataclass(frozen=True)
class Labels:
    """What is known of n records of a global batch beside their embeddings; K negatives each.

    A place may be empty: its record's `valid` is false, or its document's `document_valid`.
    """

    valid: torch.Tensor  # bool [n]
    document_valid: torch.Tensor  # bool [n, 1 + K]: the positive, then the negatives
    levels: torch.Tensor  # int64 [n, K], of the negatives; 0 = ungraded or empty
    query_hash: torch.Tensor  # int64 [n], equal for equal texts
    document_hash: torch.Tensor  # int64 [n, 1 + K]
    symmetric: torch.Tensor  # bool [n]: query and positive may change places
    group: torch.Tensor  # int64 [n]: queries see documents of their own negative group alone
    scores: torch.Tensor  # float32 [n, 1 + K], of the documents; NaN = none or empty
    guide: torch.Tensor | None = None  # float32 [n, 2 + K, g], unit length: the guide's embeddings, if any

    def __getitem__(self, which: torch.Tensor | slice | list[int]) -> "Labels":
        """Of the records `which`."""
        return self._map(lambda tensor: tensor[which])

    def to(self, device: torch.device) -> "Labels":
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, function: Any) -> "Labels":
        return Labels(**{name: function(part) for name, part in self._parts().items()})

    def _parts(self) -> dict[str, torch.Tensor]:
        """What there is of the fields, by their names."""
        return {name: part for name, part in vars(self).items() if part is not None}

    @classmethod
    def cat(cls, parts: Sequence["Labels"]) -> "Labels":
        """Of the records of all parts, in their order; K is the same in all, and a guide in all or none."""
        found = [part._parts() for part in parts]
        return cls(**{name: torch.cat([part[name] for part in found]) for name in found[0]})


class Ratio(NamedTuple):
    """A statistic of this rank; over ranks, numerators and denominators are added up before they are
    divided."""

    numerator: torch.Tensor  # scalar
    denominator: torch.Tensor  # scalar; if all ranks' are 0, the statistic is 0


class LossOutput(NamedTuple):
    """What a loss says of one global batch, on one rank."""

    total: torch.Tensor  # scalar: the losses of this rank's valid records, added up; with gradient
    statistics: dict[str, Ratio]  # the same names on every rank; they appear in the run's metrics

    @classmethod
    def weighted(cls, parts: Iterable[tuple[str, float, "LossOutput"]], labels: Labels) -> "LossOutput":
        """Of a loss that is a sum of parts, by name and weight. Its statistics are each part's mean before
        weighing, by the part's name, and the part's own under it."""
        total = torch.zeros((), device=labels.valid.device)
        statistics: dict[str, Ratio] = {}
        for name, weight, part in parts:
            total = total + weight * part.total
            statistics[name] = Ratio(part.total.detach(), labels.valid.sum())
            statistics |= {f"{name}/{key}": ratio for key, ratio in part.statistics.items()}
        return cls(total, statistics)


@functools.lru_cache
def constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Numbers of a recipe as a tensor, [len(values)], which goes to the device once and not in every step."""
    return torch.tensor(values, dtype=dtype, device=device)


class Loss(ABC):
    """A loss over global batches.

    The gradients that a rank's `total` leaves, added up over the ranks, must be those of one process that
    holds the whole batch: what is fetched through `exchange` with a gradient takes the gradient home.
    """

    def __init__(self, settings: Any, exchange: Exchange) -> None:
        self.settings, self.exchange = settings, exchange

    @abstractmethod
    def __call__(self, embeddings: torch.Tensor, labels: Labels) -> LossOutput:
        """The loss of this rank's records.

        Args:
            embeddings: float32 [n, 2 + K, d], unit length: query, positive, negatives of each record; of
                empty places anything.
            labels: of the same records.
        """
