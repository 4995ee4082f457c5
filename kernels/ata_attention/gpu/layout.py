"""Device functions that all kernels share: where a program's rows lie, the mask, and loads and stores.

Both layouts are one to the kernels. A padded batch `[B, H, N, D]` has B sequences of N rows at a stride, with
`tokens [B, N]` to tell tokens from padding; a packed batch `[T, H, D]` has S sequences at the rows that
`cu_seqlens` names, all of them tokens. Rows are counted from the start of their sequence.
"""

# mypy: disallow-untyped-defs=False
# Triton compiles these functions; their arguments have no Python types.

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

# The score of a hidden key: finite, so that a step in which a row sees nothing leaves no NaN. Whatever such a
# step adds to the row is wiped out, times exp2(−1e30), by the first key that the row does see.
HIDDEN = tl.constexpr(-1.0e30)
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


class View(NamedTuple):
    """A tensor with its strides by name, in elements; the head dimension, if there is one, is contiguous."""

    data: Tensor
    batch: int
    head: int
    row: int


def view(x: Tensor, packed: bool) -> View:
    """`[B, H, N, …]`, or packed `[T, H, …]`, where every sequence lies in the one batch entry."""
    if packed:
        return View(x, 0, x.stride(1), x.stride(0))
    return View(x, x.stride(0), x.stride(1), x.stride(2))


@triton.jit
def own_rows(tile, cu_seqlens, sequences, n, BLOCK: tl.constexpr):
    """What tile number `tile` stands for: `(batch, start, length, first)`.

    `start` is the row at which the sequence begins in its batch entry, `length` its number of rows, and
    `first` the tile's first row within it, which may lie past its end. `n` is N, or T if packed.

    Packed, sequence `s` begins with tile `cu_seqlens[s] // BLOCK + s`: that leaves room for all its tiles
    wherever it starts, and the search needs neither the longest length nor a table made beforehand.
    """
    if cu_seqlens is None:
        tiles = tl.cdiv(n, BLOCK)
        batch = tile // tiles
        start = tile * 0
        length = n
        first = (tile % tiles) * BLOCK
    else:
        low = tile * 0
        high = sequences
        while high - low > 1:
            middle = (low + high) // 2
            if tl.load(cu_seqlens + middle) // BLOCK + middle <= tile:
                low = middle
            else:
                high = middle
        batch = tile * 0
        start, length = bounds(cu_seqlens, low, n)
        first = (tile - start // BLOCK - low) * BLOCK
    return batch, start, length, first


@triton.jit
def bounds(cu_seqlens, sequence, n):
    """Start and length of a packed sequence, kept within the `n` rows that there are."""
    start = tl.maximum(tl.minimum(tl.load(cu_seqlens + sequence), n), 0)
    stop = tl.maximum(tl.minimum(tl.load(cu_seqlens + sequence + 1), n), start)
    return start, stop - start


@triton.jit
def sequence_rows(sequence, cu_seqlens, n):
    """`(batch, start, length)` of sequence number `sequence`."""
    if cu_seqlens is None:
        batch = sequence
        start = sequence * 0
        length = n
    else:
        batch = sequence * 0
        start, length = bounds(cu_seqlens, sequence, n)
    return batch, start, length


@triton.jit
def reach(first, length, BEFORE: tl.constexpr, AFTER: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr):
    """`(begin, end)` of the rows that OWN rows from `first` see, if row `i` sees `i − BEFORE … i + AFTER`.

    `begin` is a multiple of STEP.
    """
    begin = length * 0
    end = length
    if BEFORE is not None:
        begin = tl.maximum(first - BEFORE, 0) // STEP * STEP
    if AFTER is not None:
        end = tl.minimum(length, first + OWN + AFTER)
    return begin, end


@triton.jit
def is_token(tokens, rows, length):
    """Bool, shape of `rows`: whether there is a token at that row."""
    present = rows < length
    if tokens is not None:
        present = present & (tl.load(tokens + rows, mask=present, other=0) != 0)
    return present


@triton.jit
def hide(scores, queries, keys, LEFT: tl.constexpr, RIGHT: tl.constexpr):
    """`scores` with HIDDEN where the query does not see the key; `queries` and `keys` broadcast to them."""
    if LEFT is not None:
        scores = tl.where(keys >= queries - LEFT, scores, HIDDEN)
    if RIGHT is not None:
        scores = tl.where(keys <= queries + RIGHT, scores, HIDDEN)
    return scores


@triton.jit
def rows_of(x, batch, head, start):
    """One head of one sequence, as the other functions take it: pointer to its first row, and the stride.

    The offset is int64: a large batch has more than 2³¹ elements.
    """
    offset = batch.to(tl.int64) * x.batch + tl.cast(head, tl.int64) * x.head + start.to(tl.int64) * x.row
    return x.data + offset, x.row


@triton.jit
def load_tile(x, first, present, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """BLOCK rows of `x` from `first`, `[BLOCK, BLOCK_D]`; 0 past D and where not `present [BLOCK]`."""
    columns = tl.arange(0, BLOCK_D)[None, :]
    pointers = x[0] + tl.cast(first, tl.int64) * x[1] + tl.arange(0, BLOCK)[:, None] * x[1] + columns
    if D == BLOCK_D:
        return tl.load(pointers, mask=present[:, None], other=0.0)
    else:
        return tl.load(pointers, mask=present[:, None] & (columns < D), other=0.0)


@triton.jit
def store_tile(x, first, within, values, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """Stores `values [BLOCK, BLOCK_D]` as the rows of `x` from `first` on, where `within [BLOCK]`."""
    columns = tl.arange(0, BLOCK_D)[None, :]
    pointers = x[0] + tl.cast(first, tl.int64) * x[1] + tl.arange(0, BLOCK)[:, None] * x[1] + columns
    tl.store(pointers, values.to(x[0].dtype.element_ty), mask=within[:, None] & (columns < D))


@triton.jit
def load_numbers(x, rows, present, other):
    """One fp32 number for each of `rows`, `other` where not `present`."""
    return tl.load(x[0] + rows.to(tl.int64) * x[1], mask=present, other=other).to(tl.float32)


@triton.jit
def store_numbers(x, rows, within, values):
    tl.store(x[0] + rows.to(tl.int64) * x[1], values, mask=within)
