"""Many small numbers of every rank, added up in one all-reduce that the host need not wait for."""

import itertools
import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from mgh_ds.distributed.group import all_sum, device


class Sums:
    """Begins to add up `values` over the ranks; `read` has the result.

    On a GPU the result goes to the host in the background, so whoever reads it after other work that waits
    for the device, as an optimiser's step does, finds it there.

    Args:
        values: the same names and shapes on every rank: tensors on the rank's device, or numbers of the host.
            They travel as float64, in which whole numbers are exact up to 2⁵³.
    """

    def __init__(self, values: Mapping[str, torch.Tensor | float]) -> None:
        numbers = [value for value in values.values() if not isinstance(value, torch.Tensor)]
        given = iter(torch.tensor(numbers, dtype=torch.float64).to(device(), non_blocking=True))
        parts = {
            name: (value if isinstance(value, torch.Tensor) else next(given)).detach().double()
            for name, value in values.items()
        }
        self._shapes = {name: part.shape for name, part in parts.items()}
        total = all_sum(torch.cat([part.flatten() for part in parts.values()]))
        self._arrived: torch.cuda.Event | None = None
        if total.device.type == "cuda":
            self._result = torch.empty_like(total, device="cpu", pin_memory=True)
            self._result.copy_(total, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._result = total

    def read(self) -> dict[str, NDArray[np.float64]]:
        """The sums by name, in the shapes that were given; the same bits on every rank."""
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers = self._result.numpy()
        ends = itertools.accumulate(math.prod(shape) for shape in self._shapes.values())
        return {
            name: numbers[end - math.prod(shape) : end].reshape(shape)
            for end, (name, shape) in zip(ends, self._shapes.items(), strict=True)
        }
