"""The first pass, plain flash attention: `out` and `lse`; one program owns a tile of queries.

The softmax runs in base 2 with a running maximum (Dao et al., "FlashAttention", 2022): at each step over the
keys, what was added up so far is scaled down to the new maximum. `lse` is what the other kernels rebuild
`P = exp2(S·log2 e − lse)` from: it is in base 2, so that a row's largest score and its maximum in there are
rounded alike, however large they are.

Keys that all queries of a tile see are walked first, without masks, and those at the edges after them, in one
loop that jumps over the former: a third would leave the compiler too few registers to keep the tensor cores'
products in flight. Where a mask of tokens has holes, one loop masks all.
"""

# mypy: disallow-untyped-defs=False
# Triton compiles these functions; their arguments have no Python types.

import triton
import triton.language as tl

from ata_attention.gpu.layout import (
    HIDDEN,
    LOG2_E,
    described_rows,
    hide,
    is_own_token,
    is_token,
    load_tile,
    load_whole,
    own_rows,
    reach,
    rows_of,
    store_numbers,
    store_tile,
)


@triton.jit(do_not_specialize=["left", "right"])
def attention_kernel(
    out,
    lse,
    q,
    k,
    v,
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
    AHEAD: tl.constexpr,
    WHOLE: tl.constexpr,
    described_keys,
    described_values,
):
    """Program (tile, query head) writes `out` and `lse` of the tile's queries.

    Steps without a mask have WHOLE keys, a multiple of STEP, read by descriptors where there are any, and the
    others STEP.
    """
    head = tl.program_id(1)
    # The last tiles first: causal, they have the most keys, and light ones fill the gaps at the end.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    batch, start, length, extent, first = own_rows(tile, tokens, spans, cu_seqlens, sequences, n, OWN)
    if first >= extent:
        return
    if tokens is not None:
        tokens += batch.to(tl.int64) * n  # those of this sequence
    keys, values = rows_of(k, batch, head // group, start), rows_of(v, batch, head // group, start)
    rows = first + tl.arange(0, OWN)
    present = is_own_token(tokens, rows, length)
    queries = load_tile(rows_of(q, batch, head, start), first, present, D, OWN, BLOCK_D)
    state = (
        tl.zeros([OWN, BLOCK_D], tl.float32),
        tl.full([OWN], float("-inf"), tl.float32),
        tl.zeros([OWN], tl.float32),
    )
    tl.static_assert(WHOLE % STEP == 0, "steps at the edges must meet the whole ones")
    begin, whole_begin, whole_end, end = reach(first, length, left, right, OWN, WHOLE)
    if tokens is not None:
        state = _walk(
            state, queries, rows, keys, values, tokens, length, scale, begin, end, None, 0, left, right,
            D, BLOCK_D, STEP, STAGES=None,
        )  # fmt: skip
    else:
        DESCRIBED: tl.constexpr = described_keys is not None
        if DESCRIBED:
            whole_keys = described_rows(described_keys, batch, head // group, start)
            whole_values = described_rows(described_values, batch, head // group, start)
        else:
            whole_keys, whole_values = keys, values
        state = _walk_whole(
            state, queries, whole_keys, whole_values, scale, whole_begin, whole_end,
            D, BLOCK_D, WHOLE, AHEAD, DESCRIBED,
        )  # fmt: skip
        if left is None:
            begin, skip = whole_end, None  # there is nothing before them
        else:
            skip = whole_begin
        # Few steps: to load ahead would cost the registers that the loop before needs.
        state = _walk(
            state, queries, rows, keys, values, None, length, scale, begin, end, skip,
            whole_end - whole_begin, left, right, D, BLOCK_D, STEP, STAGES=1,
        )  # fmt: skip
    weighted, maximum, total = state
    # A row of padding saw nothing, or the wrong things: it is 0, and its lse makes its P vanish elsewhere.
    weighted = tl.where(present[:, None], weighted / total[:, None], 0.0)
    logarithm = tl.where(present, maximum + tl.log2(total), float("inf"))
    store_tile(rows_of(out, batch, head, start), first, rows < extent, weighted, D, OWN, BLOCK_D)
    store_numbers(rows_of(lse, batch, head, start), rows, rows < extent, logarithm)


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
    skip,
    skipped,
    left,
    right,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEP: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Takes the keys from `begin` to `end` into the running softmax, but for the `skipped` ones from `skip`
    on, if that is not None."""
    for place in tl.range(begin, end if skip is None else end - skipped, STEP, num_stages=STAGES):
        step = place if skip is None else tl.where(place < skip, place, place + skipped)
        columns = step + tl.arange(0, STEP)
        present = is_token(tokens, columns, length)
        key = load_tile(keys, step, present, D, STEP, BLOCK_D)
        scores = _scores(queries, key)
        scores = tl.where(present[None, :], scores, HIDDEN)
        scores = hide(scores, rows[:, None], columns[None, :], left, right)
        value = load_tile(values, step, present, D, STEP, BLOCK_D)
        state = _take(state, scores, value, scale)
    return state


@triton.jit
def _walk_whole(
    state,
    queries,
    keys,
    values,
    scale,
    begin,
    end,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEP: tl.constexpr,
    AHEAD: tl.constexpr,
    DESCRIBED: tl.constexpr,
):
    """The same where all keys are there and seen, in whole steps. DESCRIBED, two of them are in flight: more
    would not fit the chip's memory.

    With AHEAD a step's values are multiplied during the next step's exponentials: tensor cores and the
    units for exponentials work at once (Shah et al., "FlashAttention-3", 2024, section 3.2). The order of
    the lines alone makes the compiler do so: the next scores come after this step's weights and before its
    product, which nothing waits for until the scores after those. `_add` rounds the weights behind that
    wait: the product under way reads the registers that they are rounded to.
    """
    STAGES: tl.constexpr = 2 if DESCRIBED else None
    if AHEAD:
        if begin < end:
            scores = _whole_scores(queries, keys, begin, D, BLOCK_D, STEP, DESCRIBED)
            for step in tl.range(begin, end - STEP, STEP, num_stages=STAGES):
                weights, shrink, state = _weigh(state, scores, scale)
                scores = _whole_scores(queries, keys, step + STEP, D, BLOCK_D, STEP, DESCRIBED)
                value = load_whole(values, step, D, STEP, BLOCK_D, DESCRIBED)
                state = _add(state, weights, shrink, value)
            value = load_whole(values, end - STEP, D, STEP, BLOCK_D, DESCRIBED)
            state = _take(state, scores, value, scale)
    else:
        for step in tl.range(begin, end, STEP, num_stages=STAGES):
            scores = _whole_scores(queries, keys, step, D, BLOCK_D, STEP, DESCRIBED)
            state = _take(state, scores, load_whole(values, step, D, STEP, BLOCK_D, DESCRIBED), scale)
    return state


@triton.jit
def _whole_scores(
    queries,
    keys,
    step,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEP: tl.constexpr,
    DESCRIBED: tl.constexpr,
):
    return _scores(queries, load_whole(keys, step, D, STEP, BLOCK_D, DESCRIBED))


@triton.jit
def _scores(queries, key):
    return tl.dot(queries, tl.trans(key), input_precision="ieee")


@triton.jit
def _take(state, scores, value, scale):
    """The running softmax with the scores and values of one more step."""
    weights, shrink, state = _weigh(state, scores, scale)
    return _add(state, weights, shrink, value)


@triton.jit
def _weigh(state, scores, scale):
    """The weights of one more step, relative to the new maximum; what the sums so far shrink by; and the new
    state but for the weighted sum, which `_add` makes."""
    weighted, maximum, total = state
    higher = tl.maximum(maximum, tl.max(scores, 1) * (scale * LOG2_E))
    weights = tl.exp2(scores * (scale * LOG2_E) - higher[:, None])
    shrink = tl.exp2(maximum - higher)
    return weights, shrink, (weighted, higher, total * shrink + tl.sum(weights, 1))


@triton.jit
def _add(state, weights, shrink, value):
    weighted, maximum, total = state
    weighted = tl.dot(weights.to(value.dtype), value, weighted * shrink[:, None], input_precision="ieee")
    return weighted, maximum, total
