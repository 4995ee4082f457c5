"""The definition, written out: the whole attention matrix in memory and autograd for the gradient.

For tests and as an oracle: O(n²) memory. Runs in the dtype it is given (fp64 included); half precision is raised to fp32.
"""

import torch
from torch import Tensor

from ata_attention.masks import Visibility


def padded(
    q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, scale: float, visibility: Visibility
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments and results as in `ata_attention`, padded layout."""
    positions = torch.arange(q.shape[2], device=q.device)
    visible = visibility.mask(positions, positions)
    if visible is None:
        visible = torch.ones(len(positions), len(positions), dtype=torch.bool, device=q.device)
    visible = visible[None, None]
    if key_padding_mask is not None:
        visible = visible & key_padding_mask[:, None, None, :] & key_padding_mask[:, None, :, None]
    return _attend(q, k, v, visible, scale)


def packed(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, scale: float, visibility: Visibility
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments and results as in `ata_attention`, packed layout: one block-diagonal matrix over all tokens."""
    positions = torch.arange(q.shape[0], device=q.device)
    sequence = torch.bucketize(positions, cu_seqlens[1:].long(), right=True)
    visible = sequence[:, None] == sequence[None, :]
    within = visibility.mask(positions, positions)
    if within is not None:
        visible = visible & within
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out, lse, column_sums = _attend(q, k, v, visible[None, None], scale)
    return out[0].transpose(0, 1), lse[0].transpose(0, 1), column_sums[0].transpose(0, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """`S = scale·q·kᵀ`, `P = softmax(S)`, `out = P·v`, `column_sums = Σ_i P_ij`; hidden rows have `P = 0`."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    group = q.shape[1] // k.shape[1]
    keys, values = (x.to(dtype).repeat_interleave(group, dim=1) for x in (k, v))
    scores = (q.to(dtype) @ keys.transpose(-1, -2)) * scale
    empty = ~visible.any(-1, keepdim=True)
    # A row that sees nothing is first computed as if it saw everything, then zeroed: no NaN in its gradient.
    scores = scores.masked_fill(~(visible | empty), float("-inf"))
    lse = torch.logsumexp(scores, dim=-1, keepdim=True)
    probabilities = torch.exp(scores - lse).masked_fill(empty, 0.0)
    lse = lse.masked_fill(empty, float("inf")).squeeze(-1)
    return (probabilities @ values).to(q.dtype), lse.detach(), probabilities.sum(-2)
