"""Plain attention over packed sequences, by the best implementation at hand, without column sums.

- bf16 or fp16 on a GPU of compute capability 8.0 (Ampere) or later: `flash_attn` if it is installed, else
  torch's own variable-length flash attention. Neither reads `cu_seqlens` on the host.
- Everything else (CPUs, fp32, odd head sizes): `scaled_dot_product_attention`, sequence by sequence. It reads
  `cu_seqlens` on the host, so on a GPU it waits for it.

Of the first two only the choice and the arguments are tested so far: no figures on a GPU are claimed.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import varlen
from torch.nn.functional import scaled_dot_product_attention

from ata_attention.masks import Visibility, Window

UNLIMITED = (-1, -1)
# torch 2.11 takes fewer key heads than query heads as it is; later versions have an argument for it.
GROUPED: dict[str, Any] = (
    {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters else {}
)


class BlockDiagonalMask(NamedTuple):
    """Which keys each query attends to; the fields are arguments of `packed_attention`."""

    cu_seqlens: Tensor
    max_seqlen: int
    causal: bool
    window: Window | None


Implementation = Callable[[Tensor, Tensor, Tensor, float | None, BlockDiagonalMask], Tensor]


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens: Tensor,
    max_seqlen: int,
    causal: bool,
    scale: float | None,
    window: Window | None,
) -> Tensor:
    """Attention within each sequence, `[T, Hq, D]`, with gradient.

    `q [T, Hq, D]`, `k, v [T, Hkv, D]`; sequence `s` has the tokens `cu_seqlens[s]` up to `cu_seqlens[s + 1]`
    (int32 `[S + 1]`), none has more than `max_seqlen`. With `window = (left, right)` query `i` of a sequence
    sees its keys `i - left … i + right`; `causal` hides those after `i`. `scale` defaults to `D ** -0.5`.
    """
    run = implementation_for(q.device, q.dtype, q.shape[-1])
    return run(q, k, v, scale, BlockDiagonalMask(cu_seqlens, max_seqlen, causal, window))


@cache  # searching for a package takes longer than a layer
def implementation_for(device: torch.device, dtype: torch.dtype, head_dim: int) -> Implementation:
    """The implementation for queries of this kind, one of the three functions below."""
    flash = (
        device.type == "cuda"
        and dtype in (torch.bfloat16, torch.float16)
        and head_dim % 8 == 0
        and head_dim <= 256
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )
    if not flash:
        return with_sdpa
    return with_flash_attn if importlib.util.find_spec("flash_attn") else with_torch_varlen


def with_flash_attn(q: Tensor, k: Tensor, v: Tensor, scale: float | None, mask: BlockDiagonalMask) -> Tensor:
    flash_attn = importlib.import_module("flash_attn")
    return flash_attn.flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q=mask.cu_seqlens,
        cu_seqlens_k=mask.cu_seqlens,
        max_seqlen_q=mask.max_seqlen,
        max_seqlen_k=mask.max_seqlen,
        softmax_scale=scale,
        causal=mask.causal,
        window_size=mask.window or UNLIMITED,
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def with_torch_varlen(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, mask: BlockDiagonalMask
) -> Tensor:
    left, right = mask.window or UNLIMITED
    return varlen.varlen_attn(
        q,
        k,
        v,
        mask.cu_seqlens,
        mask.cu_seqlens,
        mask.max_seqlen,
        mask.max_seqlen,
        scale=scale,
        window_size=(left, 0 if mask.causal else right),  # it has no argument but the window for causality
        **GROUPED,
    )  # type: ignore[return-value]


def with_sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float | None, mask: BlockDiagonalMask) -> Tensor:
    """Sequence by sequence."""
    lengths = mask.cu_seqlens.diff().tolist()
    # Split, not sliced: its backward joins the parts once instead of padding each of them to the full length.
    sequences = zip(*(x.transpose(0, 1)[None].split(lengths, dim=2) for x in (q, k, v)), strict=True)
    parts = [
        scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=_visible(n, mask, q.device) if mask.window else None,
            is_causal=mask.causal and mask.window is None,
            scale=scale,
            enable_gqa=True,
        )
        for n, (query, key, value) in zip(lengths, sequences, strict=True)
    ]
    return torch.cat(parts, dim=2)[0].transpose(0, 1)


def _visible(n: int, mask: BlockDiagonalMask, device: torch.device) -> Tensor:
    """Bool `[n, n]` of a sequence of `n` tokens, True where the query (row) sees the key."""
    whole = slice(0, n)
    return Visibility.of(mask.causal, mask.window).mask(whole, whole, device)
