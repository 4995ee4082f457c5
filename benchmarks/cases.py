"""What is measured: a batch of sequences, the sizes of its attention, and its mask."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.table import Row

Layout = Literal["padded", "packed"]
Heads = tuple[int, int]
"""Query heads and key heads."""

# A packed batch: texts as an embedding model meets them, most of them short, and a long one.
MEDIAN, SPREAD, SHORTEST, LONGEST = 180, 0.9, 8, 8192


@dataclass(frozen=True)
class Case:
    """One batch. Padded ones that are timed hold sequences of one length: nothing is spent on padding.

    With `window = (left, right)` query `i` sees the keys `i - left … i + right` alone. With `holes` a padded
    batch has a mask that hides some rows between tokens as well.
    """

    layout: Layout
    lengths: tuple[int, ...]
    heads: int
    kv_heads: int
    d: int
    dtype: torch.dtype
    causal: bool
    window: tuple[int, int] | None = None
    holes: bool = False

    def __post_init__(self) -> None:
        if self.holes and self.layout == "packed":
            raise ValueError("a packed batch has no mask of tokens, and so no holes")

    @cached_property
    def n(self) -> int:
        """The longest length."""
        return max(self.lengths)

    @cached_property
    def tokens(self) -> int:
        return sum(self.lengths)

    @cached_property
    def pairs(self) -> int:
        """Pairs of a query and a key that it sees, in one head; a window is not counted."""
        return sum(n * (n + 1) // 2 if self.causal else n * n for n in self.lengths)

    @property
    def mask(self) -> str:
        mask = "causal" if self.causal else "full"
        mask += "" if self.window is None else f", window {self.window[0]}/{self.window[1]}"
        return mask + (", holes" if self.holes else "")

    @property
    def scale(self) -> float:
        return self.d**-0.5


def row_of(case: Case, what: str, direction: str, note: str = "") -> Row:
    """A row of the result table without figures."""
    return Row(
        layout=case.layout,
        mask=case.mask,
        dtype=str(case.dtype).removeprefix("torch."),
        d=case.d,
        heads=f"{case.heads}/{case.kv_heads}",
        n=case.n,
        sequences=len(case.lengths),
        tokens=case.tokens,
        direction=direction,
        what=what,
        note=note,
    )


class Inputs(NamedTuple):
    """`q, d_out [B, Hq, N, D]`, `k, v [B, Hkv, N, D]`, `d_sums [B, Hq, N]`; packed `[T, H, D]`, `[T, Hq]`.

    A padded batch lies in memory as a transformer has it, `[B, N, H, D]`. `cu_seqlens` is None for it.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    d_out: Tensor
    d_sums: Tensor
    cu_seqlens: Tensor | None


def make_inputs(case: Case, device: torch.device, seed: int = 0) -> Inputs:
    """Normally distributed inputs on the device."""
    generator = torch.Generator(device).manual_seed(seed)
    packed = case.layout == "packed"
    rows = (case.tokens,) if packed else (len(case.lengths), case.n)

    def states(heads: int) -> Tensor:
        x = torch.randn(*rows, heads, case.d, generator=generator, device=device, dtype=case.dtype)
        return x if packed else x.transpose(1, 2)

    sums = torch.randn(*rows, case.heads, generator=generator, device=device)
    bounds = [0, *itertools.accumulate(case.lengths)]
    return Inputs(
        states(case.heads),
        states(case.kv_heads),
        states(case.kv_heads),
        states(case.heads),
        sums if packed else sums.transpose(1, 2),
        torch.tensor(bounds, dtype=torch.int32, device=device) if packed else None,
    )


def realistic_lengths(
    count: int, *, longest: int = LONGEST, median: float = MEDIAN, seed: int = 0
) -> tuple[int, ...]:
    """Lengths of `count` texts in tokens, log-normal around `median`, from SHORTEST to `longest`."""
    drawn = np.random.default_rng(seed).lognormal(np.log(median), SPREAD, count)
    return tuple(int(n) for n in drawn.round().clip(min(SHORTEST, longest), longest))


def padded_lengths(n: int, tokens: int) -> tuple[int, ...]:
    """As many sequences of length `n` as make up `tokens`, one at least."""
    return (n,) * max(1, tokens // n)


def packed_lengths(tokens: int, longest: int = LONGEST) -> tuple[int, ...]:
    """A text of `longest` tokens amid texts of realistic lengths, `tokens` or a little more in all."""
    others: list[int] = []
    for n in realistic_lengths(tokens, longest=longest):
        if longest + sum(others) >= tokens:
            break
        others.append(n)
    # The long one in the middle: where it lies must not matter, and first or last would be a special case.
    half = len(others) // 2
    return (*others[:half], longest, *others[half:])


def all_cases(
    *,
    layouts: Iterable[Layout],
    lengths: Iterable[int],
    tokens: int,
    dims: Iterable[int],
    heads: Iterable[Heads],
    dtypes: Iterable[torch.dtype],
    masks: Iterable[str],
) -> Iterator[Case]:
    """Every combination; a packed batch has its own lengths, and comes once for each of the others."""
    lengths = list(lengths)
    batches: list[tuple[Layout, tuple[int, ...]]] = []
    for layout in layouts:
        if layout == "padded":
            batches += [(layout, padded_lengths(n, tokens)) for n in lengths]
        else:
            batches.append((layout, packed_lengths(tokens, min(LONGEST, max(lengths)))))
    for dtype, d, (hq, hkv), mask, (layout, batch) in itertools.product(dtypes, dims, heads, masks, batches):
        yield Case(layout, batch, hq, hkv, d, dtype, mask == "causal")
