"""Who sees whom: the rules shared by every backend (causal order, sliding window), and their parsing."""

from typing import NamedTuple

import torch

Window = tuple[int, int]


class Visibility(NamedTuple):
    """Query `i` sees key `j` of the same sequence if `i - left <= j <= i + right`; `None` means no limit on that side."""

    left: int | None
    right: int | None

    @classmethod
    def of(cls, causal: bool, window: int | Window | None) -> "Visibility":
        """From the arguments of `ata_attention`: `window` counts keys on either side of the query, itself excluded."""
        left, right = (window, window) if window is None or isinstance(window, int) else window
        return cls(left, 0 if causal else right)

    def keys_of(self, start: int, stop: int, n: int) -> tuple[int, int]:
        """The range of keys that the queries `start..stop-1` of a sequence of `n` tokens can see between them."""
        first = 0 if self.left is None else max(0, start - self.left)
        last = n if self.right is None else min(n, stop + self.right)
        return first, last

    def mask(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor | None:
        """Boolean `[len(queries), len(keys)]` for two ranges of positions, or None if every query sees every key."""
        distance = keys[None, :] - queries[:, None]
        visible = None
        if self.left is not None:
            visible = distance >= -self.left
        if self.right is not None:
            ahead = distance <= self.right
            visible = ahead if visible is None else visible & ahead
        return visible
