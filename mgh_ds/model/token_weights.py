"""Poolings by name: how much each token weighs in its text's embedding.

A new pooling is a function and a row in `POOLINGS`; what recipes and command lines accept follows from the
table. Imports nothing heavy, so that a command line can list the names at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from mgh_ds.model.batches import TokenBatch


@dataclass(frozen=True)
class TokenWeights:
    """A pooling.

    weigh            from a batch to a weight of 0 or more for each token, `[B, N]` or `[T]`; `Pooling` makes
                     those of a text sum to 1
    reads_attention  `weigh` takes a second argument of the same shape: the attention that each token
                     receives, `Σ_layers Σ_h f(c_hj)` (see `Pooling`)
    """

    weigh: "Callable[..., Tensor]"
    reads_attention: bool = False


def ata(batch: "TokenBatch", attention: "Tensor") -> "Tensor":
    """The paper's: by the attention received."""
    return batch.pooling_mask * attention


def mean(batch: "TokenBatch") -> "Tensor":
    return batch.pooling_mask.float()


def last(batch: "TokenBatch") -> "Tensor":
    return (batch.position_ids == batch.spread(batch.lengths) - 1).float()


def cls(batch: "TokenBatch") -> "Tensor":
    return (batch.position_ids == 0).float()


def weighted_mean(batch: "TokenBatch") -> "Tensor":
    """SGPT's: growing with the position."""
    return batch.pooling_mask * (batch.position_ids + 1.0)


POOLINGS: dict[str, TokenWeights] = {
    "ata": TokenWeights(ata, reads_attention=True),
    "mean": TokenWeights(mean),
    "last": TokenWeights(last),
    "cls": TokenWeights(cls),
    "weighted_mean": TokenWeights(weighted_mean),
}
