"""The portable backend: plain matmuls over blocks of queries, O(n·block) memory, an analytic backward pass.

For a block of queries the whole key row is at hand, so the softmax is exact in one step; the backward pass computes
the block again from the saved `lse`. All arithmetic is in fp32 (fp64 for fp64 input), whatever the input's dtype.

    S_ij = scale·q_i·k_j       P_ij = exp(S_ij − lse_i)      out_i = Σ_j P_ij v_j        c_j = Σ_i P_ij
    dP_ij = dout_i·v_j + dc_j  D_i = dout_i·out_i + Σ_j P_ij dc_j                        dS_ij = P_ij (dP_ij − D_i)
    dq_i = scale·Σ_j dS_ij k_j dk_j = scale·Σ_i dS_ij q_i    dv_j = Σ_i P_ij dout_i

The rows of P sum to one, so a constant added to `dc` changes nothing in exact arithmetic; `dc` is centred first, which
keeps `dP − D` small in floating point.

Heads are grouped by the key head that they share: U = B·Hkv key heads, each with G = Hq / Hkv query heads.
Shape suffixes: U key heads (`u` of them in a block), G query heads of each, N tokens, D head dimension.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ata_attention.masks import Visibility

Result = tuple[Tensor, Tensor, Tensor]

# Elements of a block of S: on a CPU it should stay in a core's cache, on a GPU it should fill the chip.
CPU_BLOCK = 2**18
GPU_BLOCK = 2**24
# Where attention is causal or windowed, blocks of few queries leave out most of the keys that none of them sees.
LIMITED_ROWS = 128


def padded(
    q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, scale: float, visibility: Visibility
) -> Result:
    """Arguments and results as in `ata_attention`, padded layout."""
    return _ChunkedAttention.apply(q, k, v, key_padding_mask, scale, visibility)


def packed(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, scale: float, visibility: Visibility
) -> Result:
    """Arguments and results as in `ata_attention`, packed layout: one sequence after another."""
    lengths = cu_seqlens.diff().tolist() or [0]
    # Split, not sliced: its backward joins the parts once instead of padding each of them to the full length.
    parts = [
        padded(*(x.transpose(0, 1)[None] for x in part), None, scale, visibility)
        for part in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    ]
    out, lse, column_sums = (torch.cat([x[0].transpose(0, 1) for x in kind]) for kind in zip(*parts, strict=True))
    return out, lse, column_sums


class _Block(NamedTuple):
    """One step of the loop: key heads `units`, queries `rows`, and the keys that at least one of them sees."""

    units: slice
    rows: slice
    keys: slice


def _blocks(units: int, group: int, n: int, visibility: Visibility, device: torch.device) -> Iterator[_Block]:
    budget = CPU_BLOCK if device.type == "cpu" else GPU_BLOCK
    rows = max(1, min(n, budget // max(group * n, 1), LIMITED_ROWS if visibility.limited else n))
    at_once = max(1, budget // max(group * n * rows, 1))
    for first in range(0, units, at_once):
        for start in range(0, n, rows):
            part = slice(start, min(start + rows, n))
            yield _Block(slice(first, min(first + at_once, units)), part, visibility.keys_of(part, n))


class _ChunkedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor | None, scale: float, visibility: Visibility
    ) -> Result:
        q_UGND, k_UND, v_UND = _by_key_head(q, k, v)
        units, group, n, _ = q_UGND.shape
        dtype = torch.promote_types(q.dtype, torch.float32)
        bias_UN = _padding_bias(tokens, k.shape[1], dtype)
        out_UGND = torch.empty(q_UGND.shape, dtype=q.dtype, device=q.device)
        lse_UGN = torch.empty(units, group, n, dtype=dtype, device=q.device)
        sums_UGN = torch.zeros_like(lse_UGN)
        for block in _blocks(units, group, n, visibility, q.device):
            u, rows, keys = block
            weights = _scores(q_UGND, k_UND, bias_UN, scale, visibility, block)
            # The maximum is finite even where no key is visible, which is where the query is padding.
            top = weights.amax(-1, keepdim=True).clamp_min_(torch.finfo(dtype).min)
            weights.sub_(top).exp_()
            total = weights.sum(-1, keepdim=True)
            norm, lse = total.reciprocal(), total.log_().add_(top)
            if bias_UN is not None:
                padding = bias_UN[u, None, rows, None] < 0
                norm.masked_fill_(padding, 0.0)
                lse.masked_fill_(padding, float("inf"))
            out_UGND[u, :, rows] = _matmul(weights, v_UND[u, keys].to(dtype)).mul_(norm)
            lse_UGN[u, :, rows] = lse.squeeze(-1)
            sums_UGN[u, :, keys] += torch.matmul(norm.mT, weights).squeeze(-2)
        out, lse, sums = out_UGND.view(q.shape), lse_UGN.view(q.shape[:3]), sums_UGN.view(q.shape[:3])
        ctx.save_for_backward(q, k, v, tokens, out, lse, sums)
        ctx.scale, ctx.visibility = scale, visibility
        ctx.mark_non_differentiable(lse)
        ctx.set_materialize_grads(False)
        return out, lse, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor | None, _: Tensor | None, d_sums: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, tokens, out, lse, sums = ctx.saved_tensors
        if d_out is None and d_sums is None:
            return (None,) * 6
        q_UGND, k_UND, v_UND = _by_key_head(q, k, v)
        units, group, n, _ = q_UGND.shape
        dtype = lse.dtype
        bias_UN = _padding_bias(tokens, k.shape[1], dtype)
        lse_UGN = lse.view(units, group, n)
        dc_UGN = None if d_sums is None else _centred(d_sums.to(dtype), sums, tokens).reshape(units, group, n)
        dout_UGND = None if d_out is None else d_out.reshape(q_UGND.shape)
        out_UGND = out.reshape(q_UGND.shape)
        dq_UGND = torch.empty(q_UGND.shape, dtype=q.dtype, device=q.device)
        dk_UND, dv_UND = (torch.zeros(x.shape, dtype=dtype, device=x.device) for x in (k_UND, v_UND))
        for block in _blocks(units, group, n, ctx.visibility, q.device):
            u, rows, keys = block
            weights = _scores(q_UGND, k_UND, bias_UN, ctx.scale, ctx.visibility, block)
            weights.sub_(lse_UGN[u, :, rows, None]).exp_()
            d_columns = None if dc_UGN is None else dc_UGN[u, :, None, keys]
            if dout_UGND is None:
                d_scores = d_columns - torch.matmul(weights, d_columns.mT)
            else:
                d_rows = dout_UGND[u, :, rows].to(dtype)
                dv_UND[u, keys] += _outer(weights, d_rows)
                row_term = (d_rows * out_UGND[u, :, rows]).sum(-1, keepdim=True)
                d_scores = _matmul(d_rows, v_UND[u, keys].to(dtype).mT)
                if d_columns is not None:
                    row_term += torch.matmul(weights, d_columns.mT)
                    d_scores += d_columns
                d_scores -= row_term
            d_scores *= weights
            dq_UGND[u, :, rows] = _matmul(d_scores, k_UND[u, keys].to(dtype)).mul_(ctx.scale)
            dk_UND[u, keys] += _outer(d_scores, q_UGND[u, :, rows].to(dtype))
        d_k = dk_UND.mul_(ctx.scale).to(k.dtype).view(k.shape)
        return dq_UGND.view(q.shape), d_k, dv_UND.to(v.dtype).view(v.shape), None, None, None


def _by_key_head(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`q [B, Hq, N, D]` → `[U, G, N, D]`; `k, v [B, Hkv, N, D]` → `[U, N, D]`."""
    batch, heads, n, d = k.shape
    grouped = q.reshape(batch * heads, q.shape[1] // heads, n, d)
    return grouped, k.reshape(batch * heads, n, d), v.reshape(batch * heads, n, d)


def _padding_bias(tokens: Tensor | None, heads: int, dtype: torch.dtype) -> Tensor | None:
    """`[U, N]` from the mask `[B, N]`: 0 at tokens and −inf at padding; None if nothing is padding."""
    if tokens is None or bool(tokens.all()):
        return None
    bias = torch.zeros(tokens.shape, dtype=dtype, device=tokens.device).masked_fill_(~tokens, float("-inf"))
    return bias.repeat_interleave(heads, dim=0)


def _scores(
    q_UGND: Tensor, k_UND: Tensor, bias_UN: Tensor | None, scale: float, visibility: Visibility, block: _Block
) -> Tensor:
    """S of a block, `[u, G, rows, keys]`, with −inf where the query does not see the key."""
    u, rows, keys = block
    dtype = torch.promote_types(q_UGND.dtype, torch.float32)
    scores = _matmul(q_UGND[u, :, rows].to(dtype) * scale, k_UND[u, keys].to(dtype).mT)
    if bias_UN is not None:
        scores += bias_UN[u, None, None, keys]
    for edge in visibility.edges(rows, keys):
        hidden = ~visibility.mask(rows, edge, scores.device)
        scores[..., edge.start - keys.start : edge.stop - keys.start].masked_fill_(hidden, float("-inf"))
    return scores


def _matmul(a_uGrx: Tensor, b_uxy: Tensor) -> Tensor:
    """`[u, G, r, x] · [u, x, y] → [u, G, r, y]`, without copying `b` for each of the G heads."""
    return torch.bmm(a_uGrx.flatten(1, 2), b_uxy).unflatten(1, a_uGrx.shape[1:3])


def _outer(a_uGrx: Tensor, b_uGry: Tensor) -> Tensor:
    """`Σ_Gr a_uGrx b_uGry → [u, x, y]`: the gradient of a key head gathers all its query heads."""
    return torch.bmm(a_uGrx.flatten(1, 2).mT, b_uGry.flatten(1, 2))


def _centred(d_sums: Tensor, sums: Tensor, tokens: Tensor | None) -> Tensor:
    """`dc − Σ(c·dc)/Σc` for each head and sequence, `[B, Hq, N]`; what arrives at padding is dropped."""
    if tokens is not None:
        d_sums = d_sums.masked_fill(~tokens[:, None], 0.0)
    count = sums.sum(-1, keepdim=True).clamp_min(1.0)
    return d_sums - (sums * d_sums).sum(-1, keepdim=True) / count
