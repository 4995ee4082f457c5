"""The first pass, plain flash attention: `out` and `lse`; one program owns a tile of queries.

The softmax runs in base 2 with a running maximum (Dao et al., "FlashAttention", 2022): at each step over the
keys, what was added up so far is scaled down to the new maximum. `lse` is what the other kernels rebuild
`P = exp(S − lse)` from.
"""

# mypy: disallow-untyped-defs=False
# Triton compiles these functions; their arguments have no Python types.

import triton
import triton.language as tl

from ata_attention.gpu.layout import (
    HIDDEN,
    LN_2,
    LOG2_E,
    hide,
    is_token,
    load_tile,
    own_rows,
    reach,
    rows_of,
    store_numbers,
    store_tile,
)


@triton.jit
def attention_kernel(
    out,
    lse,
    q,
    k,
    v,
    tokens,
    cu_seqlens,
    sequences,
    n,
    group,
    scale,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    OWN: tl.constexpr,
    STEP: tl.constexpr,
):
    """Program (tile, query head) writes `out` and `lse` of the tile's queries."""
    head = tl.program_id(1)
    batch, start, length, first = own_rows(tl.program_id(0), cu_seqlens, sequences, n, OWN)
    if first >= length:
        return
    if tokens is not None:
        tokens += batch.to(tl.int64) * n  # those of this sequence
    keys, values = rows_of(k, batch, head // group, start), rows_of(v, batch, head // group, start)
    rows = first + tl.arange(0, OWN)
    present = is_token(tokens, rows, length)
    queries = load_tile(rows_of(q, batch, head, start), first, present, D, OWN, BLOCK_D)
    state = (
        tl.zeros([OWN, BLOCK_D], tl.float32),
        tl.full([OWN], float("-inf"), tl.float32),
        tl.zeros([OWN], tl.float32),
    )
    begin, end = reach(first, length, LEFT, RIGHT, OWN, STEP)
    if tokens is not None:
        state = _walk(
            state, queries, rows, keys, values, tokens, length, scale, begin, end,
            LEFT, RIGHT, D, BLOCK_D, STEP, HIDE=True,
        )  # fmt: skip
    else:
        # The steps in the middle, where all queries see all keys, go without a mask.
        whole_begin, whole_end = _whole(first, length, begin, end, LEFT, RIGHT, OWN, STEP)
        if LEFT is not None:
            state = _walk(
                state, queries, rows, keys, values, tokens, length, scale, begin, whole_begin,
                LEFT, RIGHT, D, BLOCK_D, STEP, HIDE=True,
            )  # fmt: skip
        state = _walk(
            state, queries, rows, keys, values, tokens, length, scale, whole_begin, whole_end,
            LEFT, RIGHT, D, BLOCK_D, STEP, HIDE=False,
        )  # fmt: skip
        state = _walk(
            state, queries, rows, keys, values, tokens, length, scale, whole_end, end,
            LEFT, RIGHT, D, BLOCK_D, STEP, HIDE=True,
        )  # fmt: skip
    weighted, maximum, total = state
    # A row of padding saw nothing, or the wrong things: it is 0, and its lse makes its P vanish elsewhere.
    weighted = tl.where(present[:, None], weighted / total[:, None], 0.0)
    logarithm = tl.where(present, maximum * LN_2 + tl.log(total), float("inf"))
    store_tile(rows_of(out, batch, head, start), first, rows < length, weighted, D, OWN, BLOCK_D)
    store_numbers(rows_of(lse, batch, head, start), rows, rows < length, logarithm)


@triton.jit
def _whole(
    first,
    length,
    begin,
    end,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    OWN: tl.constexpr,
    STEP: tl.constexpr,
):
    """The part of `begin … end`, in steps of STEP keys, that every one of the own queries sees."""
    whole_begin = begin
    whole_end = length // STEP * STEP
    if LEFT is not None:
        whole_begin = tl.minimum(tl.cdiv(tl.maximum(first + OWN - 1 - LEFT, 0), STEP) * STEP, end)
    if RIGHT is not None:
        whole_end = tl.minimum(whole_end, (first + RIGHT + 1) // STEP * STEP)
    return whole_begin, tl.maximum(whole_begin, whole_end)


@triton.jit
def _walk(
    state,
    queries,
    rows,
    keys,
    values,
    tokens,
    length,
    scale,
    begin,
    end,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEP: tl.constexpr,
    HIDE: tl.constexpr,
):
    """Takes the keys from `begin` to `end` into the running softmax."""
    weighted, maximum, total = state
    for step in tl.range(begin, end, STEP):
        columns = step + tl.arange(0, STEP)
        present = is_token(tokens, columns, length)
        key = load_tile(keys, step, present, D, STEP, BLOCK_D)
        scores = tl.dot(queries, tl.trans(key), input_precision="ieee")
        if HIDE:
            scores = tl.where(present[None, :], scores, HIDDEN)
            scores = hide(scores, rows[:, None], columns[None, :], LEFT, RIGHT)
        higher = tl.maximum(maximum, tl.max(scores, 1) * (scale * LOG2_E))
        weights = tl.exp2(scores * (scale * LOG2_E) - higher[:, None])
        shrink = tl.exp2(maximum - higher)
        total = total * shrink + tl.sum(weights, 1)
        value = load_tile(values, step, present, D, STEP, BLOCK_D)
        weighted = tl.dot(weights.to(value.dtype), value, weighted * shrink[:, None], input_precision="ieee")
        maximum = higher
    return weighted, maximum, total
