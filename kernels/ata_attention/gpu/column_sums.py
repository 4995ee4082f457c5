"""The second pass: column sums from `lse`; one program owns a tile of keys.

A row's normaliser is known only when the row has been read to its end, so a forward pass that walks along
rows cannot add up columns. This one walks down columns: for its keys it computes the scores of every query
again, `P = exp2(S·log2 e − lse)`, and adds. One matmul and one exponential a pair, no memory beyond
the result. Queries that see all of the keys are walked without a mask, unless theirs has holes, and those at
the edges apart.
"""

# mypy: disallow-untyped-defs=False
# Triton compiles these functions; their arguments have no Python types.

import triton
import triton.language as tl

from ata_attention.gpu.layout import (
    LOG2_E,
    hide,
    is_own_token,
    is_token,
    load_numbers,
    load_tile,
    own_rows,
    reach,
    rows_of,
    store_numbers,
)


@triton.jit(do_not_specialize=["left", "right"])
def column_sums_kernel(
    sums,
    lse,
    q,
    k,
    tokens,
    spans,
    cu_seqlens,
    sequences,
    n,
    group,
    scale,
    left,
    right,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    OWN: tl.constexpr,
    STEP: tl.constexpr,
):
    """Program (tile, query head) writes the column sums of the tile's keys, 0 at padding."""
    head = tl.program_id(1)
    batch, start, length, extent, first = own_rows(
        tl.program_id(0), tokens, spans, cu_seqlens, sequences, n, OWN
    )
    if first >= extent:
        return
    if tokens is not None:
        tokens += batch.to(tl.int64) * n  # those of this sequence
    queries, logarithms = rows_of(q, batch, head, start), rows_of(lse, batch, head, start)
    columns = first + tl.arange(0, OWN)
    present = is_own_token(tokens, columns, length)
    keys = load_tile(rows_of(k, batch, head // group, start), first, present, D, OWN, BLOCK_D)
    total = tl.zeros([OWN], tl.float32)
    # Seen from a key, left and right change places.
    begin, whole_begin, whole_end, end = reach(first, length, right, left, OWN, STEP)
    total = _walk(
        total, keys, columns, queries, logarithms, tokens, length, scale, whole_begin, whole_end, whole_end,
        0, left, right, D, BLOCK_D, STEP, HIDE=False,
    )  # fmt: skip
    total = _walk(
        total, keys, columns, queries, logarithms, tokens, length, scale, begin, end, whole_begin,
        whole_end - whole_begin, left, right, D, BLOCK_D, STEP, HIDE=True,
    )  # fmt: skip
    total = tl.where(present, total, 0.0)
    store_numbers(rows_of(sums, batch, head, start), columns, columns < extent, total)


@triton.jit
def _walk(
    total,
    keys,
    columns,
    queries,
    logarithms,
    tokens,
    length,
    scale,
    begin,
    end,
    skip,
    skipped,
    left,
    right,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEP: tl.constexpr,
    HIDE: tl.constexpr,
):
    """Adds what the queries from `begin` to `end` give, but for the `skipped` ones from `skip` on; without
    HIDE they are rows that see all the keys, none skipped."""
    for place in tl.range(begin, end - skipped, STEP, num_stages=1 if HIDE else None):
        step = tl.where(place < skip, place, place + skipped) if HIDE else place
        rows = step + tl.arange(0, STEP)
        is_query = is_token(tokens, rows, length) if HIDE or tokens is not None else None
        query = load_tile(queries, step, is_query, D, STEP, BLOCK_D)
        # What is no query has lse = +inf, and so P = 0, without a mask.
        logarithm = load_numbers(logarithms, rows, is_query, float("inf"))
        scores = tl.dot(keys, tl.trans(query), input_precision="ieee")
        if HIDE:
            scores = hide(scores, rows[None, :], columns[:, None], left, right)
        total += tl.sum(tl.exp2(scores * (scale * LOG2_E) - logarithm[None, :]), 1)
    return total
