"""Plain attention over packed texts, by the best implementation at hand; no text sees another.

- bf16 or fp16 on a GPU of compute capability 8.0 (Ampere) or later: `flash_attn` if it is installed, else
  torch's own variable-length flash attention. Neither reads `cu_seqlens` on the host.
- Everything else (CPUs, fp32, odd head sizes): `scaled_dot_product_attention`, text by text. It reads
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

Window = tuple[int, int]
UNLIMITED = (-1, -1)
# torch 2.11 takes fewer key heads than query heads as it is; later versions want to be told.
GROUPED: dict[str, Any] = (
    {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters else {}
)


class Sight(NamedTuple):
    """Who sees whom; the fields are arguments of `packed_attention`."""

    cu_seqlens: Tensor
    max_seqlen: int
    causal: bool
    window: Window | None


Implementation = Callable[[Tensor, Tensor, Tensor, float | None, Sight], Tensor]


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
    """Attention within each text, `[T, Hq, D]`, with gradient.

    `q [T, Hq, D]`, `k, v [T, Hkv, D]`; text `s` has the tokens `cu_seqlens[s]` up to `cu_seqlens[s + 1]`
    (int32 `[S + 1]`), none has more than `max_seqlen`. With `window = (left, right)` query `i` of a text sees
    its keys `i - left … i + right`; `causal` hides those after `i`. `scale` defaults to `D ** -0.5`.
    """
    run = chosen(q.device, q.dtype, q.shape[-1])
    return run(q, k, v, scale, Sight(cu_seqlens, max_seqlen, causal, window))


@cache  # looking for a package takes longer than a layer
def chosen(device: torch.device, dtype: torch.dtype, head_dim: int) -> Implementation:
    """The implementation for queries of this kind, one of the three functions below."""
    flash = (
        device.type == "cuda"
        and dtype in (torch.bfloat16, torch.float16)
        and head_dim % 8 == 0
        and head_dim <= 256
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )
    if not flash:
        return text_by_text
    return with_flash_attn if importlib.util.find_spec("flash_attn") else with_torch_varlen


def with_flash_attn(q: Tensor, k: Tensor, v: Tensor, scale: float | None, sight: Sight) -> Tensor:
    flash_attn = importlib.import_module("flash_attn")
    return flash_attn.flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q=sight.cu_seqlens,
        cu_seqlens_k=sight.cu_seqlens,
        max_seqlen_q=sight.max_seqlen,
        max_seqlen_k=sight.max_seqlen,
        softmax_scale=scale,
        causal=sight.causal,
        window_size=sight.window or UNLIMITED,
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def with_torch_varlen(q: Tensor, k: Tensor, v: Tensor, scale: float | None, sight: Sight) -> Tensor:
    left, right = sight.window or UNLIMITED
    return varlen.varlen_attn(
        q,
        k,
        v,
        sight.cu_seqlens,
        sight.cu_seqlens,
        sight.max_seqlen,
        sight.max_seqlen,
        scale=scale,
        window_size=(left, 0 if sight.causal else right),  # a window is all that it knows of causality
        **GROUPED,
    )  # type: ignore[return-value]


def text_by_text(q: Tensor, k: Tensor, v: Tensor, scale: float | None, sight: Sight) -> Tensor:
    lengths = sight.cu_seqlens.diff().tolist()
    # Split, not sliced: its backward joins the parts once instead of padding each of them to the full length.
    texts = zip(*(x.transpose(0, 1)[None].split(lengths, dim=2) for x in (q, k, v)), strict=True)
    parts = [
        scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=_visible(n, sight.causal, sight.window, q.device) if sight.window else None,
            is_causal=sight.causal and sight.window is None,
            scale=scale,
            enable_gqa=True,
        )
        for n, (query, key, value) in zip(lengths, texts, strict=True)
    ]
    return torch.cat(parts, dim=2)[0].transpose(0, 1)


def _visible(n: int, causal: bool, window: Window, device: torch.device) -> Tensor:
    """Bool `[n, n]`, True where the query (row) sees the key."""
    left, right = window
    place = torch.arange(n, device=device)
    distance = place - place[:, None]
    return (distance >= -left) & (distance <= (0 if causal else right))
