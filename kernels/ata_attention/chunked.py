"""The portable backend: plain matmuls over blocks of queries, O(n·block) memory, and an analytic backward pass.

Per block of queries the whole key row is at hand, so the softmax is exact in one step; the backward pass recomputes it from
the saved `lse`. All arithmetic is in fp32 (fp64 for fp64 input), whatever the dtype of the input.

    S_ij = scale·q_i·k_j        P_ij = exp(S_ij − L_i)        O_i = Σ_j P_ij v_j        c_j = Σ_i P_ij
    dP_ij = dO_i·v_j + dc_j     D_i = dO_i·O_i + Σ_j P_ij dc_j        dS_ij = P_ij (dP_ij − D_i)
    dq_i = scale·Σ_j dS_ij k_j      dk_j = scale·Σ_i dS_ij q_i        dv_j = Σ_i P_ij dO_i

Rows of P sum to one, so adding a constant to `dc` changes nothing in exact arithmetic; `dc` is centred first, which keeps
`dP − D` small in floating point.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ata_attention.masks import Visibility

# Elements of one block of S: small enough to stay in a core's cache on CPU, large enough to fill a GPU.
BLOCK_ELEMENTS = {"cpu": 2**19, "cuda": 2**24}


def padded(
    q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, scale: float, visibility: Visibility
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments and results as in `ata_attention`, padded layout."""
    return _ChunkedAttention.apply(q, k, v, key_padding_mask, scale, visibility)


def packed(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, scale: float, visibility: Visibility
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments and results as in `ata_attention`, packed layout: one sequence after another."""
    lengths = cu_seqlens.diff().tolist()
    if not lengths:
        return q.clone(), q.new_empty(q.shape[:2]), q.new_empty(q.shape[:2])
    # split, not slicing: its backward joins the parts once instead of padding each part to the full length.
    parts = [
        padded(*(x.transpose(0, 1)[None] for x in part), None, scale, visibility)
        for part in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    ]
    outs, lses, sums = zip(*parts, strict=True)
    join = [torch.cat([x[0].transpose(0, 1) for x in results]) for results in (outs, lses, sums)]
    return join[0], join[1], join[2]


class _Block(NamedTuple):
    """One step of the loop: key heads `units`, queries `rows`, and the keys that these queries can see."""

    units: slice
    rows: slice
    keys: slice


def _blocks(units: int, group: int, n: int, visibility: Visibility, device: torch.device) -> Iterator[_Block]:
    """Cuts the work so that one block of S (units × group × rows × n) has about `BLOCK_ELEMENTS` elements."""
    budget = BLOCK_ELEMENTS.get(device.type, BLOCK_ELEMENTS["cuda"])
    rows = min(n, max(1, budget // (group * n)))
    at_once = max(1, budget // (group * rows * n))
    for unit in range(0, units, at_once):
        for start in range(0, n, rows):
            stop = min(start + rows, n)
            yield _Block(
                slice(unit, min(unit + at_once, units)), slice(start, stop), slice(*visibility.keys_of(start, stop, n))
            )


def _bias(hidden: Tensor | None, visibility: Visibility, block: _Block, like: Tensor) -> Tensor | None:
    """0 where a query may look and −inf where not, broadcastable to `[units, group, rows, keys]`; None if all may."""
    bias = None
    positions = [torch.arange(part.start, part.stop, device=like.device) for part in (block.rows, block.keys)]
    visible = visibility.mask(*positions)
    if visible is not None:
        bias = like.new_zeros(visible.shape).masked_fill_(~visible, float("-inf"))
    if hidden is not None:
        keys = hidden[block.units, None, None, block.keys]
        bias = keys if bias is None else bias + keys
    return bias


class _ChunkedAttention(torch.autograd.Function):
    """Padded layout. In the loops heads are grouped by key head: q `[U, G, N, D]`, k and v `[U, N, D]`, U = B·Hkv."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor | None, scale: float, visibility: Visibility
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, heads, n, _ = q.shape
        dtype = torch.promote_types(q.dtype, torch.float32)
        queries, keys, values = _grouped(q, k, v)
        units, group = queries.shape[:2]
        hidden, dead = _padding(tokens, units // max(batch, 1), dtype)
        out = torch.empty_like(queries, dtype=q.dtype, memory_format=torch.contiguous_format)
        lse = queries.new_empty(units, group, n, dtype=dtype)
        sums = queries.new_zeros(units, group, n, dtype=dtype)
        for block in _blocks(units, group, n, visibility, q.device):
            u, rows, cols = block
            scores = _scores(queries, keys, scale, _bias(hidden, visibility, block, lse), block)
            top = scores.amax(-1, keepdim=True).clamp_min_(torch.finfo(dtype).min)
            weights = scores.sub_(top).exp_()
            total = weights.sum(-1, keepdim=True)
            norm = total.reciprocal()
            lse_block = (top + total.log()).squeeze(-1)
            if dead is not None:
                norm.masked_fill_(dead[u, None, rows, None], 0.0)
                lse_block.masked_fill_(dead[u, None, rows], float("inf"))
            lse[u, :, rows] = lse_block
            out[u, :, rows] = (weights @ values[u, None, cols].to(dtype)).mul_(norm)
            sums[u, :, cols] += (norm.transpose(-1, -2) @ weights).squeeze(-2)
        out = out.view(q.shape)
        lse, sums = lse.view(batch, heads, n), sums.view(batch, heads, n)
        ctx.save_for_backward(q, k, v, tokens, out, lse, sums)
        ctx.scale, ctx.visibility = scale, visibility
        ctx.mark_non_differentiable(lse)
        ctx.set_materialize_grads(False)
        return out, lse, sums

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_out: Tensor | None, _: Tensor | None, d_sums: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        q, k, v, tokens, out, lse, sums = ctx.saved_tensors
        if d_out is None and d_sums is None:
            return None, None, None, None, None, None
        batch, n = q.shape[0], q.shape[2]
        dtype = lse.dtype
        scale, visibility = ctx.scale, ctx.visibility
        queries, keys, values = _grouped(q, k, v)
        units, group = queries.shape[:2]
        hidden, _dead = _padding(tokens, units // max(batch, 1), dtype)
        lse = lse.view(units, group, n)
        d_sums = _centred(d_sums, sums, tokens, (units, group, n))
        if d_out is not None:
            d_out = d_out.reshape(queries.shape)
            out = out.reshape(queries.shape)
        d_q = torch.empty_like(queries, dtype=q.dtype, memory_format=torch.contiguous_format)
        d_k, d_v = (torch.zeros_like(x, dtype=dtype, memory_format=torch.contiguous_format) for x in (keys, values))
        for block in _blocks(units, group, n, visibility, q.device):
            u, rows, cols = block
            bias = lse[u, :, rows, None].neg()
            look = _bias(hidden, visibility, block, lse)
            weights = _scores(queries, keys, scale, bias if look is None else bias + look, block).exp_()
            d_scores = lse.new_zeros(()).expand_as(weights)
            row_term = lse.new_zeros(())
            if d_sums is not None:
                d_columns = d_sums[u, :, None, cols]
                d_scores = d_columns.expand_as(weights)
                row_term = weights @ d_columns.transpose(-1, -2)
            if d_out is not None:
                d_block = d_out[u, :, rows].to(dtype)
                row_term = row_term + (d_block * out[u, :, rows]).sum(-1, keepdim=True)
                value_grad = d_block @ values[u, None, cols].to(dtype).transpose(-1, -2)
                d_scores = value_grad if d_sums is None else value_grad.add_(d_scores)
                d_v[u, cols] += (weights.transpose(-1, -2) @ d_block).sum(1)
            d_scores = (d_scores - row_term).mul_(weights)
            d_q[u, :, rows] = (d_scores @ keys[u, None, cols].to(dtype)).mul_(scale)
            d_k[u, cols] += (d_scores.transpose(-1, -2) @ queries[u, :, rows].to(dtype)).sum(1).mul_(scale)
        return d_q.view(q.shape), d_k.to(k.dtype).view(k.shape), d_v.to(v.dtype).view(v.shape), None, None, None


def _grouped(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`[B, Hq, N, D]` → `[U, G, N, D]`; `[B, Hkv, N, D]` → `[U, N, D]`."""
    batch, heads, n, d = q.shape
    groups = heads // k.shape[1]
    units = batch * k.shape[1]
    return q.reshape(units, groups, n, d), k.reshape(units, n, d), v.reshape(units, n, d)


def _padding(tokens: Tensor | None, heads: int, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """From the mask `[B, N]`: −inf at padded keys, and True at padded queries, both `[U, N]`; None without padding."""
    if tokens is None or bool(tokens.all()):
        return None, None
    dead = ~tokens.repeat_interleave(heads, dim=0)
    return torch.zeros(dead.shape, dtype=dtype, device=dead.device).masked_fill_(dead, float("-inf")), dead


def _scores(queries: Tensor, keys: Tensor, scale: float, bias: Tensor | None, block: _Block) -> Tensor:
    """`scale·q·kᵀ + bias` of one block, `[units, group, rows, keys]`."""
    u, rows, cols = block
    dtype = torch.promote_types(queries.dtype, torch.float32)
    left = queries[u, :, rows].to(dtype) * scale
    scores = left @ keys[u, None, cols].to(dtype).transpose(-1, -2)
    return scores if bias is None else scores.add_(bias)


def _centred(d_sums: Tensor | None, sums: Tensor, tokens: Tensor | None, shape: tuple[int, int, int]) -> Tensor | None:
    """`dc − Σ(c·dc)/Σc` for each head and sequence, contiguous `[U, G, N]`; nothing flows through padded keys."""
    if d_sums is None:
        return None
    d_sums = d_sums.to(sums.dtype)
    if tokens is not None:
        d_sums = d_sums.masked_fill(~tokens[:, None, :], 0.0)
    count = sums.sum(-1, keepdim=True).clamp_min(torch.finfo(sums.dtype).tiny)
    return (d_sums - (sums * d_sums).sum(-1, keepdim=True) / count).reshape(shape)
