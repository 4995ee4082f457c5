"""Which keys a query attends to within its sequence, causal or windowed: the rule that all backends share."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Window = tuple[int, int]


# Wider than any sequence, and far enough from 2³¹ that a kernel can add rows to it.
WIDEST = 2**30


class Visibility(NamedTuple):
    """Query `i` sees key `j` if `i - left <= j <= i + right`; None means no limit on that side."""

    left: int | None
    right: int | None

    @classmethod
    def of(cls, causal: bool, window: int | Window | None) -> "Visibility":
        """From the arguments of `ata_attention`."""
        left, right = (window, window) if window is None or isinstance(window, int) else window
        if left is not None and right is not None:
            left, right = min(left, WIDEST), min(right, WIDEST)
        return cls(left, 0 if causal else right)

    @property
    def limited(self) -> bool:
        return self.left is not None or self.right is not None

    def keys_of(self, rows: slice, n: int) -> slice:
        """The keys that at least one of the queries `rows` sees, in a sequence of `n` tokens."""
        first = 0 if self.left is None else max(0, rows.start - self.left)
        last = n if self.right is None else min(n, rows.stop + self.right)
        return slice(first, last)

    def edges(self, rows: slice, keys: slice) -> Iterator[slice]:
        """The parts of `keys` that some of the queries `rows` see and others do not; they may overlap."""
        if self.left is not None:
            yield slice(keys.start, max(keys.start, min(keys.stop, rows.stop - 1 - self.left)))
        if self.right is not None:
            yield slice(min(keys.stop, max(keys.start, rows.start + self.right + 1)), keys.stop)

    def mask(self, rows: slice, keys: slice, device: torch.device) -> Tensor:
        """Bool `[rows, keys]`, True where the query sees the key."""
        query = torch.arange(rows.start, rows.stop, device=device)[:, None]
        distance = torch.arange(keys.start, keys.stop, device=device) - query
        visible = torch.ones_like(distance, dtype=torch.bool)
        if self.left is not None:
            visible &= distance >= -self.left
        if self.right is not None:
            visible &= distance <= self.right
        return visible
