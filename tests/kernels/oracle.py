"""An independent oracle: PyTorch's own attention, with the column sums read off its gradient.

It appends `dc` to V as a column and 1 to dO. An unmodified attention's backward pass then yields the dQ and
dK that belong to a gradient `dO` through the output and `dc` through the column sums, and the last column of
its dV is `c`.
"""

import itertools
from typing import Any

import torch
from ata_attention import ata_attention
from ata_attention.interface import Backend
from torch import Tensor

Window = int | tuple[int, int] | None


def visible_pairs(n: int, causal: bool, window: Window, tokens: Tensor) -> Tensor:
    """Bool `[B, N, N]`, pair by pair from the words of the docstring."""
    left, right = window if isinstance(window, tuple) else (window or 0, window or 0)
    seen = torch.zeros(n, n, dtype=torch.bool)
    for i, j in itertools.product(range(n), repeat=2):
        within = window is None or i - left <= j <= i + right
        seen[i, j] = within and not (causal and j > i)
    return seen & tokens[:, None, :] & tokens[:, :, None]


def oracle(
    q: Tensor, k: Tensor, v: Tensor, d_out: Tensor, d_sums: Tensor, visible: Tensor
) -> tuple[Tensor, ...]:
    """`out`, `column_sums` and the gradients of q, k, v."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (x.detach().clone().requires_grad_() for x in (q, k, v))
    alive = visible.any(-1)
    # Rows that see nothing may attend to everything here; a zero gradient takes them out again.
    mask = (visible | ~alive[..., None])[:, None]
    keys, values = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    wide = torch.cat([values, d_sums[..., None]], -1).detach().requires_grad_()
    joined = torch.cat([values, wide[..., -1:]], -1)
    out = torch.nn.functional.scaled_dot_product_attention(q, keys, joined, attn_mask=mask)
    gate = alive[:, None, :, None]
    wide_grad = torch.cat([d_out, torch.ones_like(d_out[..., :1])], -1) * gate
    d_q, d_k, d_v, d_wide = torch.autograd.grad(out, (q, k, v, wide), wide_grad)
    return out[..., :-1] * gate, d_wide[..., -1], d_q, d_k, d_v


def eager_attention(
    q: Tensor, k: Tensor, v: Tensor, d_out: Tensor, d_sums: Tensor, causal: bool
) -> tuple[Tensor, ...]:
    """One packed sequence by plain PyTorch in its own dtype, column sums and all."""
    q, k, v = (x.detach().clone().requires_grad_() for x in (q, k, v))
    keys, values = (x.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(0, 1) for x in (k, v))
    scores = q.transpose(0, 1) @ keys.mT * q.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
    weights = scores.softmax(-1)
    out, sums = (weights @ values).transpose(0, 1), weights.sum(-2).T
    return out, sums, *torch.autograd.grad((out, sums), (q, k, v), (d_out, d_sums))


def run(
    backend: Backend, q: Tensor, k: Tensor, v: Tensor, d_out: Tensor, d_sums: Tensor, **options: Any
) -> tuple[Tensor, ...]:
    q, k, v = (x.detach().clone().requires_grad_() for x in (q, k, v))
    result = ata_attention(q, k, v, backend=backend, **options)
    assert result.backend == backend
    grads = torch.autograd.grad((result.out, result.column_sums), (q, k, v), (d_out, d_sums))
    return result.out, result.column_sums, *grads


def tensors(
    batch: int, heads: int, group: int, n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)

    def make(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    q, d_out = make(batch, heads * group, n, d), make(batch, heads * group, n, d)
    return q, make(batch, heads, n, d), make(batch, heads, n, d), d_out, make(batch, heads * group, n)
