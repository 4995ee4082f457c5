"""The operators `ata_attention::forward` and `ata_attention::backward`, and the backend made of them.

As `torch.library` operators with fake implementations and registered autograd they go through
`torch.compile(fullgraph=True)`, `opcheck` and activation checkpointing like any of PyTorch's own.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ata_attention.gpu import launch, tiles
from ata_attention.gpu.launch import Batch
from ata_attention.masks import Visibility

Result = tuple[Tensor, Tensor, Tensor]
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot run on this device, or with this dtype; None if they can."""
    if dtype not in DTYPES:
        return f"q has dtype {dtype}; the Triton kernels take bfloat16, float16 and float32"
    if tiles.interpreted():
        return None
    if device.type != "cuda" or torch.version.hip is not None:
        return f"q is on {device}; the Triton kernels need an NVIDIA GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return f"the GPU has compute capability {capability}; the Triton kernels need (8, 0) or more"
    return None


def padded(
    q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, scale: float, visibility: Visibility
) -> Result:
    """Arguments and results as in `ata_attention`, padded layout."""
    return _natural(*_forward(q, k, v, key_padding_mask, None, q.shape[2], scale, *visibility))


def packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int | None,
    scale: float,
    visibility: Visibility,
) -> Result:
    """Arguments and results as in `ata_attention`, packed layout.

    Rows behind the last sequence get what padding gets; a sequence longer than `max_seqlen`, if the faster
    path for short ones cannot take it, NaN.
    """
    return _natural(*_forward(q, k, v, None, cu_seqlens, max_seqlen, scale, *visibility))


def _natural(out: Tensor, lse: Tensor, sums: Tensor) -> Result:
    """With the base that callers expect; the operators keep `lse` in base 2."""
    return out, lse * math.log(2), sums


@torch.library.custom_op("ata_attention::forward", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tokens: Tensor | None,
    cu_seqlens: Tensor | None,
    longest: int | None,
    scale: float,
    left: int | None,
    right: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    batch = _batch(tokens, cu_seqlens, longest, scale, left, right)
    return launch.forward(_dense(q), _dense(k), _dense(v), batch)


@torch.library.custom_op("ata_attention::backward", mutates_args=())
def _backward(
    d_out: Tensor,
    d_sums: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    sums: Tensor,
    tokens: Tensor | None,
    cu_seqlens: Tensor | None,
    longest: int | None,
    scale: float,
    left: int | None,
    right: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    batch = _batch(tokens, cu_seqlens, longest, scale, left, right)
    d_out, q, k, v = (_dense(x) for x in (d_out, q, k, v))
    return launch.backward(d_out, d_sums, q, k, v, out, lse, sums, batch)


def _batch(
    tokens: Tensor | None,
    cu_seqlens: Tensor | None,
    longest: int | None,
    scale: float,
    left: int | None,
    right: int | None,
) -> Batch:
    flags = None if tokens is None else tokens.contiguous().view(torch.uint8)
    bounds = None if cu_seqlens is None else cu_seqlens.contiguous()
    return Batch(flags, bounds, longest, scale, left, right)


def _dense(x: Tensor) -> Tensor:
    """`x` with its last axis contiguous: the kernels take any other strides, but an expanded gradient's 0."""
    return x if x.stride(-1) == 1 else x.contiguous()


@_forward.register_fake
def _(*inputs: Any) -> Result:
    q, is_packed = inputs[0], inputs[4] is not None
    return torch.empty_like(_dense(q)), launch.new_numbers(q, is_packed), launch.new_numbers(q, is_packed)


@_backward.register_fake
def _(*inputs: Any) -> Result:
    d_q, d_k, d_v = (torch.empty_like(_dense(x)) for x in inputs[2:5])
    return d_q, d_k, d_v


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Result) -> None:
    q, k, v, tokens, cu_seqlens, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, *output, tokens, cu_seqlens)
    ctx.mark_non_differentiable(output[1])
    # A result that nobody used has no gradient, rather than one of zeros: the kernel then skips its work.
    ctx.set_materialize_grads(False)


def _differentiate(
    ctx: Any, d_out: Tensor | None, _: Tensor | None, d_sums: Tensor | None
) -> tuple[Tensor | None, ...]:
    rest = (None,) * 6
    if d_out is None and d_sums is None:
        return None, None, None, *rest
    q, k, v, out, lse, sums, tokens, cu_seqlens = ctx.saved_tensors
    d_out = torch.zeros_like(out) if d_out is None else d_out
    gradients = _backward(d_out, d_sums, q, k, v, out, lse, sums, tokens, cu_seqlens, *ctx.settings)
    return *gradients, *rest


_forward.register_autograd(_differentiate, setup_context=_setup_context)
