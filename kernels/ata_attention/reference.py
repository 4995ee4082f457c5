"""The definition, written out: the whole attention matrix in memory, and autograd for the gradient.

For tests and as an oracle: O(n²) memory. Runs in the dtype it is given, fp64 included; half precision is
raised to fp32.
"""

import torch
from torch import Tensor

from ata_attention.masks import Visibility

Result = tuple[Tensor, Tensor, Tensor]


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
    everything = slice(0, q.shape[2])
    visible = visibility.mask(everything, everything, q.device)[None, None]
    if key_padding_mask is not None:
        visible = visible & key_padding_mask[:, None, None, :] & key_padding_mask[:, None, :, None]
    return _attention(q, k, v, visible, scale, softcap)


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
    """Arguments and results as in `ata_attention`, packed layout: a block-diagonal matrix of all tokens. Rows
    behind the last sequence are padding."""
    everything = slice(0, q.shape[0])
    positions = torch.arange(q.shape[0], device=q.device)
    sequence = torch.bucketize(positions, cu_seqlens[1:].long(), right=True)
    visible = visibility.mask(everything, everything, q.device) & (sequence[:, None] == sequence)
    visible &= sequence < cu_seqlens.shape[0] - 1
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out, lse, column_sums = _attention(q, k, v, visible[None, None], scale, softcap)
    return out[0].transpose(0, 1), lse[0].T, column_sums[0].T


def _attention(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float, softcap: float | None
) -> Result:
    """`S = scale·q·kᵀ`, or `softcap·tanh(scale·q·kᵀ / softcap)`; `P = softmax(S)`, `out = P·v`,
    `column_sums = Σ_i P_ij`; a row that sees nothing has `P = 0`.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    group = q.shape[1] // k.shape[1]
    keys, values = (x.to(dtype).repeat_interleave(group, dim=1) for x in (k, v))
    empty = ~visible.any(-1, keepdim=True)
    # An empty row is computed as if it saw everything and zeroed afterwards: no NaN, in its gradient either.
    scores = q.to(dtype) @ keys.mT * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~(visible | empty), float("-inf"))
    lse = torch.logsumexp(scores, dim=-1, keepdim=True)
    probabilities = torch.exp(scores - lse).masked_fill(empty, 0.0)
    lse = lse.masked_fill(empty, float("inf")).squeeze(-1)
    return (probabilities @ values).to(q.dtype), lse.detach(), probabilities.sum(-2)
