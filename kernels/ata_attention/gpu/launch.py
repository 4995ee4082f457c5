"""Starts the kernels: grids, strides, tile sizes. Every function returns new tensors and waits for nothing.

The arguments are those of the operators in `ops`; `Batch` is what all of them have in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ata_attention.gpu import tiles
from ata_attention.gpu.attention import attention_kernel
from ata_attention.gpu.backward import backward_dkv_kernel, backward_dq_kernel, centre_kernel
from ata_attention.gpu.column_sums import column_sums_kernel
from ata_attention.gpu.fused import fused_kernel
from ata_attention.gpu.layout import View, view
from ata_attention.gpu.spans import spans_kernel

# Rows that `centre_kernel` and `spans_kernel` read at once.
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Batch:
    """Where the sequences lie, and which keys a query attends to.

    Attributes:
        tokens: bool `[B, N]`, contiguous, or None where every row is a token.
        cu_seqlens: int32 `[S + 1]` for a packed batch, or None for a padded one.
        longest: no sequence is longer, as far as the caller knows.
        scale: factor of the scores.
        left, right: see `Visibility`.
        spans: where `tokens` has them, for the kernels that `_start` starts; see `with_spans`.
    """

    tokens: Tensor | None
    cu_seqlens: Tensor | None
    longest: int | None
    scale: float
    left: int | None
    right: int | None
    spans: Tensor | None = None

    @property
    def packed(self) -> bool:
        return self.cu_seqlens is not None

    def sequences(self, q: Tensor) -> int:
        return q.shape[0] if self.cu_seqlens is None else len(self.cu_seqlens) - 1

    def rows(self, q: Tensor) -> int:
        """N, or T if packed."""
        return q.shape[0] if self.packed else q.shape[2]

    def tile_count(self, q: Tensor, block: int) -> int:
        """Tiles of `block` rows that hold every sequence and what lies behind; packed, some may be empty."""
        if self.packed:
            return self.rows(q) // block + self.sequences(q) + 1
        return self.sequences(q) * -(-self.rows(q) // block)

    def view(self, x: Tensor) -> View:
        return view(x, self.packed)


def new_numbers(q: Tensor, packed: bool) -> Tensor:
    """An fp32 tensor with one number a row and query head, `[B, Hq, N]` or `[T, Hq]`, head by head."""
    if packed:
        return torch.empty(q.shape[1], q.shape[0], dtype=torch.float32, device=q.device).T
    return torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)


def forward(q: Tensor, k: Tensor, v: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """`out`, `lse` in base 2 and `column_sums`: in one pass if the sequences are short, else in two."""
    table = tiles.table_of(q.device)
    keys = tiles.fused_keys(batch.longest, table, q.shape[-1], q.dtype)
    if keys is not None:
        return fused(q, k, v, batch, keys)
    batch = with_spans(batch)
    out, lse = attention(q, k, v, batch)
    return out, lse, column_sums(q, k, lse, batch)


def with_spans(batch: Batch) -> Batch:
    """`batch` with the spans of its tokens, int32 `[B, 3]`; as it is where every row is a token."""
    if batch.tokens is None:
        return batch
    sequences, n = batch.tokens.shape
    spans = torch.empty(sequences, 3, dtype=torch.int32, device=batch.tokens.device)
    if sequences:
        with torch.cuda.device_of(spans):
            spans_kernel[(sequences,)](spans, batch.tokens, n, BLOCK=ROWS_AT_ONCE, num_warps=4)
    return replace(batch, spans=spans)


def attention(q: Tensor, k: Tensor, v: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Plain attention: `out` and `lse`, in base 2."""
    out, lse = torch.empty_like(q), new_numbers(q, batch.packed)
    views = [batch.view(x) for x in (out, lse, q, k, v)]
    tile = _tile("attention", q)
    described = tile.whole > 0 and describable(k) and describable(v)
    _start(
        attention_kernel,
        tile,
        views,
        q,
        k,
        batch,
        heads=q.shape[1],
        AHEAD=tile.ahead,
        WHOLE=tile.whole if described else tile.step,
        described_keys=describe(k, batch, tile.whole) if described else None,
        described_values=describe(v, batch, tile.whole) if described else None,
    )
    return out, lse


def describable(x: Tensor) -> bool:
    """Whether a tensor descriptor can name the rows of `x`: TMA wants strides of 16 bytes or a multiple,
    below 2⁴⁰ (CUDA's `cuTensorMapEncodeTiled`)."""
    strides = [stride * x.element_size() for stride in x.stride()[:-1]]
    named = all(0 < stride < 2**40 and stride % 16 == 0 for stride in strides)
    return named and x.data_ptr() % 16 == 0 and x.numel() > 0


def describe(x: Tensor, batch: Batch, rows: int) -> TensorDescriptor:
    """Blocks of so many rows of one head; `x` as `[B, H, N, D]`, of which a packed batch has the B of 1."""
    if batch.packed:
        x = x.transpose(0, 1).unsqueeze(0)
    block = [1, 1, rows, tiles.padded_head_dim(x.shape[-1])]
    return TensorDescriptor(x, list(x.shape), list(x.stride()), block)


def column_sums(q: Tensor, k: Tensor, lse: Tensor, batch: Batch) -> Tensor:
    """`column_sums`, from the `lse` of `attention`, in base 2."""
    sums = new_numbers(q, batch.packed)
    views = [batch.view(x) for x in (sums, lse, q, k)]
    _start(column_sums_kernel, _tile("column_sums", q), views, q, k, batch, heads=q.shape[1])
    return sums


def fused(q: Tensor, k: Tensor, v: Tensor, batch: Batch, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """All three in one pass, for sequences of at most `keys` rows."""
    out = torch.empty_like(q)
    lse, sums = new_numbers(q, batch.packed), new_numbers(q, batch.packed)
    if q.numel() == 0:
        return out, lse, sums
    sequences = batch.sequences(q)
    behind = -(-batch.rows(q) // keys) if batch.packed else 0
    tile = _tile(f"fused_{keys}", q)
    with torch.cuda.device_of(q):
        fused_kernel[(sequences + behind, q.shape[1])](
            *(batch.view(x) for x in (out, lse, sums, q, k, v)),
            batch.tokens,
            batch.cu_seqlens,
            sequences,
            batch.rows(q),
            q.shape[1] // k.shape[1],
            batch.scale,
            batch.left,
            batch.right,
            D=q.shape[-1],
            BLOCK_D=tiles.padded_head_dim(q.shape[-1]),
            KEYS=keys,
            STEP=tile.step,
            **_options(tile),
        )
    return out, lse, sums


def backward(
    d_out: Tensor,
    d_sums: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    sums: Tensor,
    batch: Batch,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v. With `d_sums` None no work is done for it."""
    batch = with_spans(batch)
    if d_sums is not None:
        d_sums = centre(d_sums, sums, q, batch)
    d_q, delta = backward_dq(d_out, d_sums, q, k, v, out, lse, batch)
    d_k, d_v = backward_dkv(d_out, d_sums, q, k, v, lse, delta, batch)
    return d_q, d_k, d_v


def walks_twice(q: Tensor) -> bool:
    """Whether the backward kernels do: see `backward`. fp32, without tensor cores, is bound by the work."""
    return tiles.padded_head_dim(q.shape[-1]) > 128 and q.element_size() == 2


def centre(d_sums: Tensor, sums: Tensor, q: Tensor, batch: Batch) -> Tensor:
    """`d_sums` less its mean, per head and sequence; see `centre_kernel`."""
    result = new_numbers(q, batch.packed)
    grid = (batch.sequences(q), q.shape[1])
    if q.numel() and grid[0]:
        with torch.cuda.device_of(q):
            centre_kernel[grid](
                *(batch.view(x) for x in (result, d_sums, sums)),
                batch.tokens,
                batch.cu_seqlens,
                grid[0],
                batch.rows(q),
                BLOCK=ROWS_AT_ONCE,
                num_warps=4,
                enable_fp_fusion=True,
            )
    return result


def backward_dq(
    d_out: Tensor,
    d_sums: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    batch: Batch,
) -> tuple[Tensor, Tensor]:
    """`d_q`, and the D of each row that `backward_dkv` needs. `d_sums` is centred, or None."""
    d_q, delta = torch.empty_like(q), new_numbers(q, batch.packed)
    views = [None if x is None else batch.view(x) for x in (d_q, delta, d_out, d_sums, q, k, v, out, lse)]
    name = "backward_dq" if d_sums is None else "backward_dq_columns"
    twice = walks_twice(q)
    _start(backward_dq_kernel, _tile(name, q), views, q, k, batch, heads=q.shape[1], TWICE=twice)
    return d_q, delta


def backward_dkv(
    d_out: Tensor,
    d_sums: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    delta: Tensor,
    batch: Batch,
) -> tuple[Tensor, Tensor]:
    """`d_k` and `d_v`. `d_sums` is centred, or None."""
    d_k, d_v = torch.empty_like(k), torch.empty_like(v)
    views = [None if x is None else batch.view(x) for x in (d_k, d_v, d_out, d_sums, q, k, v, lse, delta)]
    name = "backward_dkv" if d_sums is None else "backward_dkv_columns"
    twice = walks_twice(q)
    _start(backward_dkv_kernel, _tile(name, q), views, q, k, batch, heads=k.shape[1], TWICE=twice)
    return d_k, d_v


def _start(
    kernel: Any,
    tile: tiles.Tile,
    views: Sequence[View | None],
    q: Tensor,
    k: Tensor,
    batch: Batch,
    heads: int,
    **extra: Any,
) -> None:
    """One program for each tile of rows and each of `heads`.

    With the spans of a mask of tokens twice: sequences without holes between their tokens need nothing else,
    and a kernel that could read flags as well would have fewer registers for them.
    """
    if q.numel() == 0:
        return
    grid = (batch.tile_count(q, tile.own), heads)
    is_split = batch.tokens is not None and batch.spans is not None
    flags = (None, batch.tokens) if is_split else (batch.tokens,)
    # Triton starts kernels on the current device.
    with torch.cuda.device_of(q):
        for tokens in flags:
            kernel[grid](
                *views,
                tokens,
                batch.spans,
                batch.cu_seqlens,
                batch.sequences(q),
                batch.rows(q),
                q.shape[1] // k.shape[1],
                batch.scale,
                batch.left,
                batch.right,
                D=q.shape[-1],
                BLOCK_D=tiles.padded_head_dim(q.shape[-1]),
                OWN=tile.own,
                STEP=tile.step,
                **extra,
                **_options(tile),
            )


def _tile(kernel: str, q: Tensor) -> tiles.Tile:
    return tiles.tile(kernel, tiles.table_of(q.device), q.shape[-1], q.dtype)


def _options(tile: tiles.Tile) -> dict[str, Any]:
    # Fusing multiply and add is Triton's default today, and announced to change.
    return {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True}
