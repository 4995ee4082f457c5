"""Plain attention by the best implementation at hand, without column sums.

- bf16 or fp16 on a GPU of compute capability 8.0 (Ampere) or later: the fastest build of flash attention that
  can run the layer, see `flash.py`. None of them reads `cu_seqlens` on the host.
- Everything else (CPUs, fp32, odd head sizes): `scaled_dot_product_attention`, sequence by sequence, or
  `ata_attention` where scores are capped. On a CPU both read `cu_seqlens` on the host, and the first of them
  on a GPU too, so that it waits for it.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ata_attention import flash
from ata_attention.autocast import in_autocast
from ata_attention.flash import BlockDiagonalMask
from ata_attention.interface import ata_attention
from ata_attention.masks import Visibility, Window


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
    softcap: float | None = None,
) -> Tensor:
    """Attention within each sequence, `[T, Hq, D]`, with gradient.

    `q [T, Hq, D]`, `k, v [T, Hkv, D]`; sequence `s` has the tokens `cu_seqlens[s]` up to `cu_seqlens[s + 1]`
    (int32 `[S + 1]`), none has more than `max_seqlen`. With `window = (left, right)` query `i` of a sequence
    sees its keys `i - left … i + right`; `causal` hides those after `i`. `scale` defaults to `D ** -0.5`, and
    with `softcap` a score `s` becomes `softcap * tanh(s / softcap)`. Under autocast fp32 is computed in
    autocast's precision, as by torch's own attention.
    """
    q, k, v = (x.to(in_autocast(x.device, x.dtype)) for x in (q, k, v))
    mask = BlockDiagonalMask(cu_seqlens, max_seqlen, causal, window)
    build = flash.chosen(
        flash.Layer(
            q.device,
            q.dtype,
            q.shape[-1],
            grouped=q.shape[1] != k.shape[1],
            causal=causal,
            windowed=window is not None,
            capped=softcap is not None,
            gradient=torch.is_grad_enabled(),
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )
    )
    if build is not None:
        return flash.attend(build, q, k, v, mask, scale, softcap)
    if softcap is None:
        return with_sdpa(q, k, v, scale, mask)
    return ata_attention(q, k, v, scale=scale, softcap=softcap, **mask._asdict()).out


def unpadded_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    places: Tensor,
    *,
    causal: bool,
    scale: float | None,
    window: Window | None,
    softcap: float | None = None,
) -> Tensor:
    """The same of a padded batch, whose tokens are laid together for it: `[B, N, Hq, D]`, 0 at padding.

    `q [B, Hq, N, D]`, `k, v [B, Hkv, N, D]`; `places`, int64 and rising, are those of the tokens among the
    B · N. No length is read on the host.
    """
    rows, length = q.shape[0], q.shape[2]
    padding = len(places) < rows * length
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    starts = torch.arange(0, rows * length + 1, length, device=q.device)
    if padding:
        q, k, v = (x.index_select(0, places) for x in (q, k, v))
        starts = torch.searchsorted(places, starts)  # how many tokens come before each row
    out = packed_attention(
        q,
        k,
        v,
        cu_seqlens=starts.int(),
        max_seqlen=length,
        causal=causal,
        scale=scale,
        window=window,
        softcap=softcap,
    )
    if padding:
        out = out.new_zeros(rows * length, *out.shape[1:]).index_copy(0, places, out)
    return out.unflatten(0, (rows, length))


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
