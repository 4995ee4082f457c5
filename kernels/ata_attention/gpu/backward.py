"""Gradients of q, k and v from `d_out` and `d_column_sums`, without atomic operations.

    dP_ij = dout_i·v_j + dc_j          D_i = Σ_j P_ij dP_ij = dout_i·out_i + r_i          r_i = Σ_j P_ij dc_j
    dS_ij = P_ij (dP_ij − D_i)         dq_i = s Σ_j dS_ij k_j        dk_j = s Σ_i dS_ij q_i

Three kernels, in this order:

- `centre_kernel` takes from `dc` its mean over the keys, weighted by `c`. The rows of P sum to 1, so this
  changes nothing in exact arithmetic; in floating point it keeps dP − D small;
- `backward_dq_kernel` owns queries. `r_i` is known only at the row's end, yet dS needs it from the start.
  So it adds up `A = Σ_j P_ij (dP_ij − dout_i·out_i) k_j`, `B = Σ_j P_ij k_j` and `r_i`, and at the end
  `dq_i = s (A − r_i B)`: one matmul more than plain attention's, and no exponential more. It leaves `D_i`;
- `backward_dkv_kernel` owns keys. It is plain attention's but for the term `dc_j`.

Without `d_column_sums` there is no centring, no `B` and no `r`.

TWICE is for heads so wide that a program has registers for one accumulator, not two, of as many rows as its
warps can share. Then `backward_dq_kernel` finds `r` in a walk of its own before the one for dq, without `B`,
and `backward_dkv_kernel` dv before dk: four matmuls and five, where half as many rows, which all warps would
compute the scores of, take six.
"""

# mypy: disallow-untyped-defs=False
# Triton compiles these functions; their arguments have no Python types.

import triton
import triton.language as tl

from ata_attention.gpu.layout import (
    HIDDEN,
    LOG2_E,
    hide,
    is_own_token,
    is_token,
    load_numbers,
    load_tile,
    own_rows,
    reach,
    rows_of,
    sequence_rows,
    store_numbers,
    store_tile,
)


@triton.jit
def centre_kernel(centred, d_sums, sums, tokens, cu_seqlens, sequences, n, BLOCK: tl.constexpr):
    """Program (sequence, query head) writes `dc − Σ(c·dc) / Σc` of one sequence, 0 at padding."""
    head = tl.program_id(1)
    batch, start, length = sequence_rows(tl.program_id(0), cu_seqlens, sequences, n)
    if tokens is not None:
        tokens += batch.to(tl.int64) * n  # those of this sequence
    gradients, weights = rows_of(d_sums, batch, head, start), rows_of(sums, batch, head, start)
    results = rows_of(centred, batch, head, start)
    weighted = tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for first in tl.range(0, length, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        present = is_token(tokens, rows, length)
        weight = load_numbers(weights, rows, present, 0.0)
        weighted += weight * load_numbers(gradients, rows, present, 0.0)
        total += weight
    mean = tl.sum(weighted, 0) / tl.maximum(tl.sum(total, 0), 1.0)
    for first in tl.range(0, length, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        present = is_token(tokens, rows, length)
        values = load_numbers(gradients, rows, present, mean) - mean
        store_numbers(results, rows, rows < length, values)


@triton.jit(do_not_specialize=["left", "right"])
def backward_dq_kernel(
    d_q,
    delta,
    d_out,
    d_sums,
    q,
    k,
    v,
    out,
    lse,
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
    TWICE: tl.constexpr,
):
    """Program (tile, query head) writes `d_q` and `delta` (D above) of the tile's queries.

    `d_sums` is centred, or None.
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
    column_gradients = None if d_sums is None else rows_of(d_sums, batch, head, start)
    rows = first + tl.arange(0, OWN)
    present = is_own_token(tokens, rows, length)
    query = load_tile(rows_of(q, batch, head, start), first, present, D, OWN, BLOCK_D)
    d_row = load_tile(rows_of(d_out, batch, head, start), first, present, D, OWN, BLOCK_D)
    result = load_tile(rows_of(out, batch, head, start), first, present, D, OWN, BLOCK_D)
    logarithm = load_numbers(rows_of(lse, batch, head, start), rows, present, float("inf"))
    row_delta = tl.sum(d_row.to(tl.float32) * result.to(tl.float32), 1)
    begin, whole_begin, whole_end, end = reach(first, length, left, right, OWN, STEP)
    AT_ONCE: tl.constexpr = column_gradients is not None and not TWICE
    row_term = tl.zeros([OWN], tl.float32)  # r
    if column_gradients is not None and TWICE:
        for step in tl.range(begin, end, STEP, disable_licm=BLOCK_D > 128):
            columns = step + tl.arange(0, STEP)
            is_key = is_token(tokens, columns, length)
            key = load_tile(keys, step, is_key, D, STEP, BLOCK_D)
            is_edge = tokens is not None or step < whole_begin or step >= whole_end
            weights = _weights(query, key, rows, columns, is_key, is_edge, logarithm, scale, left, right)
            column_gradient = load_numbers(column_gradients, columns, is_key, 0.0)
            row_term += tl.sum(weights * column_gradient[None, :], 1)
        row_delta += row_term
    gradient = tl.zeros([OWN, BLOCK_D], tl.float32)  # A, or the whole where r is known
    mean_key = tl.zeros([OWN, BLOCK_D if AT_ONCE else 1], tl.float32)  # B
    for step in tl.range(begin, end, STEP, disable_licm=BLOCK_D > 128):
        columns = step + tl.arange(0, STEP)
        is_key = is_token(tokens, columns, length)
        key = load_tile(keys, step, is_key, D, STEP, BLOCK_D)
        value = load_tile(values, step, is_key, D, STEP, BLOCK_D)
        is_edge = tokens is not None or step < whole_begin or step >= whole_end
        weights = _weights(query, key, rows, columns, is_key, is_edge, logarithm, scale, left, right)
        d_weights = tl.dot(d_row, tl.trans(value), input_precision="ieee") - row_delta[:, None]
        if column_gradients is not None:
            column_gradient = load_numbers(column_gradients, columns, is_key, 0.0)
            d_weights += column_gradient[None, :]
            if AT_ONCE:
                row_term += tl.sum(weights * column_gradient[None, :], 1)
                mean_key = tl.dot(weights.to(key.dtype), key, mean_key, input_precision="ieee")
        gradient = tl.dot((weights * d_weights).to(key.dtype), key, gradient, input_precision="ieee")
    if AT_ONCE:
        gradient -= row_term[:, None] * mean_key
        row_delta += row_term
    store_tile(rows_of(d_q, batch, head, start), first, rows < extent, gradient * scale, D, OWN, BLOCK_D)
    store_numbers(rows_of(delta, batch, head, start), rows, rows < extent, row_delta)


@triton.jit
def _weights(query, key, rows, columns, is_key, is_edge, logarithm, scale, left, right):
    """P of the queries at `rows` for the keys at `columns`, some of which may be hidden if `is_edge`."""
    scores = tl.dot(query, tl.trans(key), input_precision="ieee")
    if is_edge:
        scores = tl.where(is_key[None, :], scores, HIDDEN)
        scores = hide(scores, rows[:, None], columns[None, :], left, right)
    return tl.exp2(scores * (scale * LOG2_E) - logarithm[:, None])


@triton.jit(do_not_specialize=["left", "right"])
def backward_dkv_kernel(
    d_k,
    d_v,
    d_out,
    d_sums,
    q,
    k,
    v,
    lse,
    delta,
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
    TWICE: tl.constexpr,
):
    """Program (tile, key head) writes `d_k` and `d_v` of the tile's keys, from all query heads of theirs.

    `d_sums` is centred, or None.
    """
    key_head = tl.program_id(1)
    batch, start, length, extent, first = own_rows(
        tl.program_id(0), tokens, spans, cu_seqlens, sequences, n, OWN
    )
    if first >= extent:
        return
    if tokens is not None:
        tokens += batch.to(tl.int64) * n  # those of this sequence
    columns = first + tl.arange(0, OWN)
    present = is_own_token(tokens, columns, length)
    within = columns < extent
    key = load_tile(rows_of(k, batch, key_head, start), first, present, D, OWN, BLOCK_D)
    # Seen from a key, left and right change places.
    limits = reach(first, length, right, left, OWN, STEP)
    if TWICE:
        _, d_value = _walk_queries(
            q, d_out, d_sums, lse, delta, batch, start, key_head, group, key, None, columns, present, tokens,
            length, scale, limits, left, right, D, BLOCK_D, OWN, STEP, KEYS=False, VALUES=True,
        )  # fmt: skip
        d_value = tl.where(present[:, None], d_value, 0.0)
        store_tile(rows_of(d_v, batch, key_head, start), first, within, d_value, D, OWN, BLOCK_D)
    value = load_tile(rows_of(v, batch, key_head, start), first, present, D, OWN, BLOCK_D)
    d_key, d_value = _walk_queries(
        q, d_out, d_sums, lse, delta, batch, start, key_head, group, key, value, columns, present, tokens,
        length, scale, limits, left, right, D, BLOCK_D, OWN, STEP, KEYS=True, VALUES=not TWICE,
    )  # fmt: skip
    d_key = tl.where(present[:, None], d_key * scale, 0.0)
    store_tile(rows_of(d_k, batch, key_head, start), first, within, d_key, D, OWN, BLOCK_D)
    if not TWICE:
        d_value = tl.where(present[:, None], d_value, 0.0)
        store_tile(rows_of(d_v, batch, key_head, start), first, within, d_value, D, OWN, BLOCK_D)


@triton.jit
def _walk_queries(
    q,
    d_out,
    d_sums,
    lse,
    delta,
    batch,
    start,
    key_head,
    group,
    key,
    value,
    columns,
    present,
    tokens,
    length,
    scale,
    limits,
    left,
    right,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    OWN: tl.constexpr,
    STEP: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
):
    """`(d_k / s, d_v)` from the queries that `reach` names, of all heads; the two as KEYS and VALUES say."""
    begin, whole_begin, whole_end, end = limits
    d_key = tl.zeros([OWN, BLOCK_D if KEYS else 1], tl.float32)
    d_value = tl.zeros([OWN, BLOCK_D if VALUES else 1], tl.float32)
    for head in tl.range(key_head * group, key_head * group + group, disable_licm=BLOCK_D > 128):
        queries, d_rows = rows_of(q, batch, head, start), rows_of(d_out, batch, head, start)
        logarithms, deltas = rows_of(lse, batch, head, start), rows_of(delta, batch, head, start)
        for step in tl.range(begin, end, STEP, disable_licm=BLOCK_D > 128):
            rows = step + tl.arange(0, STEP)
            is_query = is_token(tokens, rows, length)
            query = load_tile(queries, step, is_query, D, STEP, BLOCK_D)
            d_row = load_tile(d_rows, step, is_query, D, STEP, BLOCK_D)
            # What is no query has lse = +inf, and so P = 0, without a mask.
            logarithm = load_numbers(logarithms, rows, is_query, float("inf"))
            scores = tl.dot(key, tl.trans(query), input_precision="ieee")
            if right is not None:  # noqa: SIM102 (settled by the compiler, the other while running)
                if step < whole_begin or step >= whole_end:
                    scores = hide(scores, rows[None, :], columns[:, None], left, right)
            weights = tl.exp2(scores * (scale * LOG2_E) - logarithm[None, :])
            if VALUES:
                d_value = tl.dot(weights.to(d_row.dtype), d_row, d_value, input_precision="ieee")
            if KEYS:
                row_delta = load_numbers(deltas, rows, is_query, 0.0)
                d_weights = tl.dot(value, tl.trans(d_row), input_precision="ieee") - row_delta[None, :]
                if d_sums is not None:
                    column_gradients = rows_of(d_sums, batch, head, start)
                    column_gradient = load_numbers(column_gradients, columns, present, 0.0)
                    d_weights += column_gradient[:, None]
                d_key = tl.dot((weights * d_weights).to(query.dtype), query, d_key, input_precision="ieee")
    return d_key, d_value
