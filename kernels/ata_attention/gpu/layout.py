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
def own_rows(tile, tokens, spans, cu_seqlens, sequences, n, BLOCK: tl.constexpr):
    """What tile number `tile` stands for: `(batch, start, length, extent, first)`.

    `start` is the row at which the sequence begins in its batch entry, `length` its number of rows that may
    be tokens, `extent` that of the rows to write, and `first` the tile's first row within it, which may lie
    past its end. `n` is N, or T if packed.

    Packed, sequence `s` begins with tile `cu_seqlens[s] // BLOCK + s`: that leaves room for all its tiles
    wherever it starts, and the search needs neither the longest length nor a table made beforehand. Rows
    behind the last sequence are one more, of length 0: what is written there is what padding gets.

    Under a mask of tokens there are `spans` (see `spans_kernel`). A kernel without the flags, `tokens`,
    counts rows from a sequence's first token to its last: those to write before have negative numbers, and
    `length` is 0 for a tile without a token. It leaves alone the sequences with holes between their tokens,
    and a kernel with flags, which counts from row 0, all others: there `first` is `extent`.
    """
    if cu_seqlens is None:
        tiles = tl.cdiv(n, BLOCK)
        batch = tile // tiles
        start = tile * 0
        length = n
        extent = n
        first = (tile % tiles) * BLOCK
        if spans is not None:
            low, high = tl.load(spans + batch * 3), tl.load(spans + batch * 3 + 1)
            is_holed = tl.load(spans + batch * 3 + 2) < high - low
            if tokens is None:
                start = low
                length = tl.where(first < high, tl.where(first + BLOCK > low, high - low, 0), 0)
                first = tl.where(is_holed, n, first) - low
                extent = n - low
            else:
                first = tl.where(is_holed, first, n)
    else:
        low = tile * 0
        high = sequences + 1
        while high - low > 1:
            middle = (low + high) // 2
            if tl.load(cu_seqlens + middle) // BLOCK + middle <= tile:
                low = middle
            else:
                high = middle
        batch = tile * 0
        start, extent = bounds(cu_seqlens, low, sequences, n)
        length = tl.where(low < sequences, extent, 0)
        first = (tile - start // BLOCK - low) * BLOCK
    return batch, start, length, extent, first


@triton.jit
def bounds(cu_seqlens, sequence, sequences, n):
    """Start and number of rows of a packed sequence, kept within the `n` rows that there are; those behind
    the last sequence are number `sequences`."""
    start = tl.maximum(tl.minimum(tl.load(cu_seqlens + sequence), n), 0)
    stop = tl.load(cu_seqlens + sequence + 1, mask=sequence < sequences, other=n)
    return start, tl.maximum(tl.minimum(stop, n), start) - start


@triton.jit
def sequence_rows(sequence, cu_seqlens, sequences, n):
    """`(batch, start, length)` of sequence number `sequence`."""
    if cu_seqlens is None:
        batch = sequence
        start = sequence * 0
        length = n
    else:
        batch = sequence * 0
        start, length = bounds(cu_seqlens, sequence, sequences, n)
    return batch, start, length


@triton.jit
def sequence_or_rest(number, cu_seqlens, sequences, n, ROWS: tl.constexpr):
    """`(batch, start, length, extent)`, as in `own_rows`, of sequence `number`; those beyond the last one
    stand for ROWS rows each of those behind it, if there are any."""
    batch, start, length = sequence_rows(tl.minimum(number, sequences), cu_seqlens, sequences, n)
    extent = length
    if cu_seqlens is not None:
        behind = tl.maximum(number - sequences, 0) * ROWS
        start += behind
        extent = tl.where(number < sequences, length, tl.minimum(length - behind, ROWS))
        length = tl.where(number < sequences, length, 0)
    return batch, start, length, extent


@triton.jit
def reach(first, length, before, after, OWN: tl.constexpr, STEP: tl.constexpr):
    """`(begin, whole_begin, whole_end, end)` for OWN rows from `first`, if row `i` sees `i − before …
    i + after`, None meaning no limit: some of them see the rows `begin … end`, and all of them those of
    `whole_begin … whole_end`, which need no mask. All but `end` are multiples of STEP. `first` may be
    negative; what there is nothing of then begins behind its end.
    """
    begin = length * 0
    end = length
    whole_begin = begin
    whole_end = length // STEP * STEP
    if before is not None:
        begin = tl.maximum(first - before, 0) // STEP * STEP
        whole_begin = tl.cdiv(tl.maximum(first + OWN - 1 - before, 0), STEP) * STEP
    if after is not None:
        end = tl.minimum(length, first + OWN + after)
        whole_end = tl.minimum(whole_end, (first + after + 1) // STEP * STEP)
    whole_begin = tl.minimum(tl.maximum(whole_begin, begin), tl.cdiv(end, STEP) * STEP)
    return begin, whole_begin, tl.maximum(whole_begin, whole_end), end


@triton.jit
def is_token(tokens, rows, length):
    """Bool, shape of `rows`: whether there is a token at that row."""
    present = rows < length
    if tokens is not None:
        present = present & (tl.load(tokens + rows, mask=present, other=0) != 0)
    return present


@triton.jit
def is_own_token(tokens, rows, length):
    """The same for rows that a program owns, which without flags may be negative: see `own_rows`."""
    present = is_token(tokens, rows, length)
    if tokens is None:
        present = present & (rows >= 0)
    return present


@triton.jit
def hide(scores, queries, keys, left, right):
    """`scores` with HIDDEN where the query does not see the key; `queries` and `keys` broadcast to them."""
    if left is not None:
        scores = tl.where(keys >= queries - left, scores, HIDDEN)
    if right is not None:
        scores = tl.where(keys <= queries + right, scores, HIDDEN)
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
    """BLOCK rows of `x` from `first`, `[BLOCK, BLOCK_D]`; 0 past D and where not `present [BLOCK]`; with None
    all are."""
    columns = tl.arange(0, BLOCK_D)[None, :]
    pointers = (x[0] + tl.cast(first, tl.int64) * x[1]) + (tl.arange(0, BLOCK)[:, None] * x[1] + columns)
    if present is None:
        if D == BLOCK_D:
            return tl.load(pointers)
        else:
            return tl.load(pointers, mask=columns < D, other=0.0)
    else:
        if D == BLOCK_D:
            return tl.load(pointers, mask=present[:, None], other=0.0)
        else:
            return tl.load(pointers, mask=present[:, None] & (columns < D), other=0.0)


@triton.jit
def described_rows(x, batch, head, start):
    """`rows_of` by a tensor descriptor over `[B, H, N, D]`: what `load_whole` takes with DESCRIBED."""
    return x, batch.to(tl.int32), tl.cast(head, tl.int32), start.to(tl.int32)


@triton.jit
def load_whole(
    x, first, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, DESCRIBED: tl.constexpr
):
    """`load_tile` where all rows are there. DESCRIBED, hardware fetches the block (TMA, from Hopper on): no
    thread computes an address."""
    if DESCRIBED:
        return x[0].load([x[1], x[2], x[3] + first, 0]).reshape([BLOCK, BLOCK_D])
    else:
        return load_tile(x, first, None, D, BLOCK, BLOCK_D)


@triton.jit
def store_tile(x, first, within, values, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """Stores `values [BLOCK, BLOCK_D]` as the rows of `x` from `first` on, where `within [BLOCK]`."""
    columns = tl.arange(0, BLOCK_D)[None, :]
    pointers = x[0] + tl.cast(first, tl.int64) * x[1] + tl.arange(0, BLOCK)[:, None] * x[1] + columns
    tl.store(pointers, values.to(x[0].dtype.element_ty), mask=within[:, None] & (columns < D))


@triton.jit
def load_numbers(x, rows, present, other):
    """One fp32 number for each of `rows`, `other` where not `present`; with None all are."""
    if present is None:
        return tl.load(x[0] + rows.to(tl.int64) * x[1]).to(tl.float32)
    else:
        return tl.load(x[0] + rows.to(tl.int64) * x[1], mask=present, other=other).to(tl.float32)


@triton.jit
def store_numbers(x, rows, within, values):
    tl.store(x[0] + rows.to(tl.int64) * x[1], values, mask=within)
