"""The portable backend: plain matmuls over blocks of queries, O(n·block) memory, an analytic backward pass.

For a block of queries the whole key row is at hand, so its softmax is exact in one step and the backward pass
simply computes the block again. All arithmetic is in fp32 (fp64 for fp64 input), whatever the input's dtype.

    S_ij = scale·q_i·k_j          P = softmax(S)                 out_i = Σ_j P_ij v_j      c_j = Σ_i P_ij
    dP_ij = dout_i·v_j + dc_j     D_i = Σ_j P_ij dP_ij           dS_ij = P_ij (dP_ij − D_i)
    dq_i = scale·Σ_j dS_ij k_j    dk_j = scale·Σ_i dS_ij q_i     dv_j = Σ_i P_ij dout_i

With a soft cap (Gemma 2, arXiv 2408.00118, section 2) S is the capped score, and its slope meets dS:

    S_ij = cap·tanh(scale·q_i·k_j / cap)          dS_ij = P_ij (dP_ij − D_i) (1 − (S_ij / cap)²)

The rows of P sum to one, so a constant added to `dc` changes nothing in exact arithmetic; `dc` is centred
first, which keeps `dP − D` small in floating point.

Heads are grouped by the key head that they share: U = B·Hkv key heads, each with G = Hq / Hkv query heads.
Shape suffixes: U key heads (u of them in a block), G query heads of each, N tokens, D head dimension.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ata_attention.autocast import without_autocast
from ata_attention.masks import Visibility

Result = tuple[Tensor, Tensor, Tensor]

# Elements of a block of S: on a CPU it should stay in a core's cache, on a GPU it should fill the chip.
CPU_BLOCK = 2**19
GPU_BLOCK = 2**24
# Where attention is causal or windowed, blocks of few queries leave out the keys that none of them sees.
LIMITED_ROWS = 128
# The score of a hidden key: exp() makes it 0, and unlike with −inf a row of nothing else stays finite.
HIDDEN = -1e30


class Scores(NamedTuple):
    """How a pair's score comes about: `scale·q·k`, then the soft cap if there is one, then who sees whom."""

    scale: float
    softcap: float | None
    visibility: Visibility


def padded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_padding_mask: Tensor | None,
    scale: float,
    visibility: Visibility,
    softcap: float | None = None,
) -> Result:
    """Arguments and results as in `ata_attention`, padded layout."""
    return _forward(q, k, v, key_padding_mask, None, scale, softcap, *visibility)


def packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    _max_seqlen: int | None,
    scale: float,
    visibility: Visibility,
    softcap: float | None = None,
) -> Result:
    """Arguments and results as in `ata_attention`, packed layout: one sequence after another."""
    return _forward(q, k, v, None, cu_seqlens, scale, softcap, *visibility)


# Operators, not functions that a compiler looks into: it cannot follow loops whose lengths are data.
@torch.library.custom_op("ata_attention::chunked_forward", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tokens: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    softcap: float | None,
    left: int | None,
    right: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    kind = Scores(scale, softcap, Visibility(left, right))
    if cu_seqlens is None:
        return _attend(q, k, v, _if_any_is_padding(tokens), kind)
    out, lse, sums = _new_results(q)
    # Rows behind the last sequence are padding.
    out.zero_(), lse.fill_(float("inf")), sums.zero_()
    for rows in _sequences(cu_seqlens):
        q_alone, k_alone, v_alone = (_alone(x, rows) for x in (q, k, v))
        results = _attend(q_alone, k_alone, v_alone, None, kind)
        for whole, part in zip((out, lse, sums), results, strict=True):
            whole[rows] = part[0].transpose(0, 1)
    return out, lse, sums


@torch.library.custom_op("ata_attention::chunked_backward", mutates_args=())
def _backward(
    d_out: Tensor | None,
    d_sums: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sums: Tensor,
    tokens: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    softcap: float | None,
    left: int | None,
    right: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    kind = Scores(scale, softcap, Visibility(left, right))
    # The backward pass may have been started under autocast.
    with without_autocast(q.device):
        if cu_seqlens is None:
            return _gradients(d_out, d_sums, q, k, v, sums, _if_any_is_padding(tokens), kind)
        d_q, d_k, d_v = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
        for rows in _sequences(cu_seqlens):
            d_out_alone, d_sums_alone = (None if x is None else _alone(x, rows) for x in (d_out, d_sums))
            q_alone, k_alone, v_alone, sums_alone = (_alone(x, rows) for x in (q, k, v, sums))
            parts = _gradients(d_out_alone, d_sums_alone, q_alone, k_alone, v_alone, sums_alone, None, kind)
            for whole, part in zip((d_q, d_k, d_v), parts, strict=True):
                whole[rows] = part[0].transpose(0, 1)
        return d_q, d_k, d_v


@_forward.register_fake
def _(*inputs: Any) -> Result:
    return _new_results(inputs[0])


@_backward.register_fake
def _(*inputs: Any) -> Result:
    d_q, d_k, d_v = (x.new_empty(x.shape) for x in inputs[2:5])
    return d_q, d_k, d_v


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Result) -> None:
    q, k, v, tokens, cu_seqlens, *ctx.settings = inputs
    _, lse, sums = output
    ctx.save_for_backward(q, k, v, sums, tokens, cu_seqlens)
    ctx.mark_non_differentiable(lse)
    ctx.set_materialize_grads(False)


def _differentiate(
    ctx: Any, d_out: Tensor | None, _: Tensor | None, d_sums: Tensor | None
) -> tuple[Tensor | None, ...]:
    rest = (None,) * 6
    if d_out is None and d_sums is None:
        return None, None, None, *rest
    return *_backward(d_out, d_sums, *ctx.saved_tensors, *ctx.settings), *rest


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _new_results(q: Tensor) -> Result:
    """`out`, `lse` and `column_sums` of either layout, uninitialised."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    lse, sums = (torch.empty(q.shape[:-1], dtype=dtype, device=q.device) for _ in range(2))
    return torch.empty(q.shape, dtype=q.dtype, device=q.device), lse, sums


def _if_any_is_padding(tokens: Tensor | None) -> Tensor | None:
    # Worth checking where that does not wait for the device.
    return None if tokens is None or (not tokens.is_cuda and bool(tokens.all())) else tokens


def _sequences(cu_seqlens: Tensor) -> Iterator[slice]:
    return (slice(*bounds) for bounds in itertools.pairwise(cu_seqlens.tolist()))


def _alone(x: Tensor, rows: slice) -> Tensor:
    """One sequence of a packed batch as a padded batch of one: `[T, H, …]` → `[1, H, n, …]`."""
    return x[rows].transpose(0, 1)[None]


def _attend(q: Tensor, k: Tensor, v: Tensor, tokens: Tensor | None, kind: Scores) -> Result:
    """Rows of padded queries are computed like any other from q = 0 and left out of every sum and result."""
    token_UN = None if tokens is None else tokens.repeat_interleave(k.shape[1], dim=0)
    q_UGND, k_UND, v_UND = _by_key_head(q, k, v, token_UN)
    out, lse, sums = _new_results(q)
    out_UGND = out.view(q_UGND.shape)
    lse_UGN, sums_UGN = lse.view(q_UGND.shape[:3]), sums.zero_().view(q_UGND.shape[:3])
    for block in _blocks(q_UGND.shape, kind.visibility, q.device):
        u, rows, keys = block
        queries = _rows(q_UGND, token_UN, block)
        scores = _scores(queries, k_UND, token_UN, kind, block)
        weights = scores.softmax(-1)
        # S = lse + log P for every pair; at the row's maximum P is not small and its logarithm accurate.
        lse_UGN[u, :, rows] = scores.amax(-1) - weights.amax(-1).log()
        out_UGND[u, :, rows] = _matmul(weights, v_UND[u, keys].to(sums.dtype))
        sums_UGN[u, :, keys] += _column_sums(weights, token_UN, block)
    if tokens is not None:
        out.masked_fill_(~tokens[:, None, :, None], 0.0)
        lse.masked_fill_(~tokens[:, None], float("inf"))
    return out, lse, sums


def _gradients(
    d_out: Tensor | None,
    d_sums: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sums: Tensor,
    tokens: Tensor | None,
    kind: Scores,
) -> Result:
    """Those of q, k and v; at least one of `d_out` and `d_sums` is there."""
    token_UN = None if tokens is None else tokens.repeat_interleave(k.shape[1], dim=0)
    d_out = torch.zeros_like(q) if d_out is None else d_out
    q_UGND, k_UND, v_UND = _by_key_head(q, k, v, token_UN)
    dtype = sums.dtype
    dc_UGN = None if d_sums is None else _centred(d_sums, sums, tokens).reshape(q_UGND.shape[:3])
    dout_UGND = d_out.reshape(q_UGND.shape)
    dq_UGND = torch.empty(q_UGND.shape, dtype=q.dtype, device=q.device)
    dk_UND, dv_UND = (torch.zeros(x.shape, dtype=dtype, device=x.device) for x in (k_UND, v_UND))
    for block in _blocks(q_UGND.shape, kind.visibility, q.device):
        u, rows, keys = block
        queries, d_rows = _rows(q_UGND, token_UN, block), _rows(dout_UGND, token_UN, block)
        scores = _scores(queries, k_UND, token_UN, kind, block)
        weights = scores.softmax(-1)
        dv_UND[u, keys] += _outer(weights, d_rows)
        d_weights = _matmul(d_rows, v_UND[u, keys].to(dtype).mT)
        if dc_UGN is not None:
            d_weights += dc_UGN[u, :, None, keys]
        # dS from dP and P in one fused pass: the kernel that autograd itself runs for softmax.
        d_scores = torch._softmax_backward_data(d_weights, weights, -1, dtype)
        if kind.softcap is not None:
            d_scores *= _slope(scores, kind.softcap)
        dq_UGND[u, :, rows] = _matmul(d_scores, k_UND[u, keys].to(dtype)).mul_(kind.scale)
        dk_UND[u, keys] += _outer(d_scores, queries)
    if tokens is not None:
        dq_UGND.view(q.shape).masked_fill_(~tokens[:, None, :, None], 0.0)
    d_k = dk_UND.mul_(kind.scale).to(k.dtype).view(k.shape)
    return dq_UGND.view(q.shape), d_k, dv_UND.to(v.dtype).view(v.shape)


class _Block(NamedTuple):
    """One step of the loop: key heads `units`, queries `rows`, and the keys that any of these see."""

    units: slice
    rows: slice
    keys: slice


def _blocks(shape_UGND: torch.Size, visibility: Visibility, device: torch.device) -> Iterator[_Block]:
    units, group, n, _ = shape_UGND
    budget = CPU_BLOCK if device.type == "cpu" else GPU_BLOCK
    rows = max(1, min(n, budget // max(group * n, 1), LIMITED_ROWS if visibility.limited else n))
    at_once = max(1, budget // max(group * n * rows, 1))
    for first in range(0, units, at_once):
        for start in range(0, n, rows):
            part = slice(start, min(start + rows, n))
            yield _Block(slice(first, min(first + at_once, units)), part, visibility.keys_of(part, n))


def _by_key_head(q: Tensor, k: Tensor, v: Tensor, token_UN: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """`q [B, Hq, N, D]` → `[U, G, N, D]`; `k, v [B, Hkv, N, D]` → `[U, N, D]`, 0 at padding."""
    batch, heads, n, d = k.shape
    grouped = q.reshape(batch * heads, q.shape[1] // heads, n, d)
    k_UND, v_UND = (x.reshape(batch * heads, n, d) for x in (k, v))
    if token_UN is not None:
        k_UND, v_UND = (x.masked_fill(~token_UN[..., None], 0.0) for x in (k_UND, v_UND))
    return grouped, k_UND, v_UND


def _rows(x_UGND: Tensor, token_UN: Tensor | None, block: _Block) -> Tensor:
    """The block's rows `[u, G, rows, D]` in the dtype of the arithmetic, 0 at padding."""
    rows = x_UGND[block.units, :, block.rows]
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return rows if token_UN is None else rows.masked_fill(~token_UN[block.units, None, block.rows, None], 0.0)


def _scores(
    queries: Tensor,
    k_UND: Tensor,
    token_UN: Tensor | None,
    kind: Scores,
    block: _Block,
) -> Tensor:
    """S of a block, `[u, G, rows, keys]`, hidden where the query does not see the key."""
    u, rows, keys = block
    scores = _matmul(queries * kind.scale, k_UND[u, keys].to(queries.dtype).mT)
    if kind.softcap is not None:
        scores.div_(kind.softcap).tanh_().mul_(kind.softcap)
    if token_UN is not None:
        bias = torch.zeros(token_UN[u, keys].shape, dtype=scores.dtype, device=scores.device)
        scores += bias.masked_fill_(~token_UN[u, keys], HIDDEN)[:, None, None]
    for edge in kind.visibility.edges(rows, keys):
        hidden = ~kind.visibility.mask(rows, edge, scores.device)
        scores[..., edge.start - keys.start : edge.stop - keys.start].masked_fill_(hidden, HIDDEN)
    return scores


def _slope(scores: Tensor, softcap: float) -> Tensor:
    """`1 − (S / cap)²`, the derivative of a capped score; 0 for hidden ones, whose square overflows."""
    return scores.div(softcap).square_().neg_().add_(1.0).clamp_min_(0.0)


def _column_sums(weights: Tensor, token_UN: Tensor | None, block: _Block) -> Tensor:
    """`Σ_i P_ij` over the block's queries that are tokens, `[u, G, keys]`."""
    if token_UN is None:
        return weights.sum(2)
    return (token_UN[block.units, None, None, block.rows].to(weights.dtype) @ weights).squeeze(2)


def _matmul(a_uGrx: Tensor, b_uxy: Tensor) -> Tensor:
    """`[u, G, r, x] · [u, x, y] → [u, G, r, y]`, without copying `b` for each of the G heads."""
    return torch.bmm(a_uGrx.flatten(1, 2), b_uxy).unflatten(1, a_uGrx.shape[1:3])


def _outer(a_uGrx: Tensor, b_uGry: Tensor) -> Tensor:
    """`Σ_Gr a_uGrx b_uGry → [u, x, y]`: the gradient of a key head gathers all its query heads."""
    return torch.bmm(a_uGrx.flatten(1, 2).mT, b_uGry.flatten(1, 2))


def _centred(d_sums: Tensor, sums: Tensor, tokens: Tensor | None) -> Tensor:
    """`dc − Σ(c·dc)/Σc` for each head and sequence, `[B, Hq, N]`; what arrives at padding is dropped."""
    d_sums = d_sums.to(sums.dtype)
    if tokens is not None:
        d_sums = d_sums.masked_fill(~tokens[:, None], 0.0)
    count = sums.sum(-1, keepdim=True).clamp_min(1.0)
    return d_sums - (sums * d_sums).sum(-1, keepdim=True) / count
