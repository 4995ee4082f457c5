"""`out`, `lse` and column sums in one pass, for short sequences, whose keys fit on the chip.

One program owns a whole sequence of one head. Its keys and values are loaded once and stay; for each tile of
queries the complete row of scores is at hand, so that its softmax is exact at once, and what the tile gives
to each key is added up on the way, in the order of the rows. No exponential is computed twice.
"""

# mypy: disallow-untyped-defs=False
# Triton compiles these functions; their arguments have no Python types.

import triton
import triton.language as tl

from ata_attention.gpu.layout import (
    HIDDEN,
    LOG2_E,
    hide,
    is_token,
    load_tile,
    rows_of,
    sequence_or_rest,
    store_numbers,
    store_tile,
)


@triton.jit(do_not_specialize=["left", "right"])
def fused_kernel(
    out,
    lse,
    sums,
    q,
    k,
    v,
    tokens,
    cu_seqlens,
    sequences,
    n,
    group,
    scale,
    left,
    right,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    KEYS: tl.constexpr,
    STEP: tl.constexpr,
):
    """Program (sequence, query head) writes all three results of a sequence of at most KEYS rows.

    A longer one, of which the caller did not know, gets NaN. Programs beyond the sequences write KEYS rows
    each of those behind the last one, as if they were padding.
    """
    head = tl.program_id(1)
    batch, start, length, extent = sequence_or_rest(tl.program_id(0), cu_seqlens, sequences, n, KEYS)
    if extent <= 0:
        return
    if tokens is not None:
        tokens += batch.to(tl.int64) * n  # those of this sequence
    queries, results = rows_of(q, batch, head, start), rows_of(out, batch, head, start)
    logarithms = rows_of(lse, batch, head, start)
    columns = tl.arange(0, KEYS)
    is_key = is_token(tokens, columns, length)
    keys = load_tile(rows_of(k, batch, head // group, start), start * 0, is_key, D, KEYS, BLOCK_D)
    values = load_tile(rows_of(v, batch, head // group, start), start * 0, is_key, D, KEYS, BLOCK_D)
    # What keys receive is added up from tile to tile; where registers suffice each thread does so alone, with
    # rows r and r + 8 of 16 that it holds of a product, and threads meet but once, behind the last tile.
    APART: tl.constexpr = KEYS * BLOCK_D <= 64 * 128
    received = tl.zeros([STEP // 16, 8, KEYS] if APART else [KEYS], tl.float32)
    share = tl.where(length <= KEYS, 1.0, float("nan"))
    for first in tl.range(0, extent, STEP):
        rows = first + tl.arange(0, STEP)
        present = is_token(tokens, rows, length)
        query = load_tile(queries, first, present, D, STEP, BLOCK_D)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee")
        scores = tl.where(is_key[None, :], scores, HIDDEN)
        scores = hide(scores, rows[:, None], columns[None, :], left, right)
        maximum = tl.max(scores, 1) * (scale * LOG2_E)
        weights = tl.exp2(scores * (scale * LOG2_E) - maximum[:, None])
        total = tl.sum(weights, 1)
        weights *= tl.where(present, share / total, 0.0)[:, None]
        if APART:
            received += tl.sum(tl.reshape(weights, (STEP // 16, 2, 8, KEYS)), 1)
        else:
            received += tl.sum(weights, 0)
        weighted = tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        logarithm = tl.where(present, maximum + tl.log2(total) * share, float("inf"))
        store_tile(results, first, rows < extent, weighted, D, STEP, BLOCK_D)
        store_numbers(logarithms, rows, rows < extent, logarithm)
    if APART:
        received = tl.sum(tl.sum(received, 0), 0)
    # A padding key received nothing from tokens, but HIDDEN leaves no promise about it: its sum is 0 by rule.
    received = tl.where(is_key, received, 0.0)
    store_numbers(rows_of(sums, batch, head, start), columns, columns < extent, received)
    for first in tl.range(KEYS, extent, KEYS):
        rows = first + columns
        store_numbers(rows_of(sums, batch, head, start), rows, rows < extent, received * share)
