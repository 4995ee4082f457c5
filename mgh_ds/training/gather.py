"""All-gather with a gradient: how every rank's loss reaches every rank's embeddings.

With the loss taken over the local rows and gradients averaged over the ranks (which DeepSpeed does), a gather
whose backward is a reduce-scatter gives exactly the gradient of one process that holds the whole batch.
"""

from typing import Any

import torch
import torch.distributed as dist

# torch 2.13 renames both collectives and warns at the old names; 2.11 and 2.12 know the old ones only.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: torch.Tensor) -> torch.Tensor:
        ctx.rows = local.shape[0]
        return gather(local)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        local = gradient.new_empty((ctx.rows, *gradient.shape[1:]))
        _reduce_scatter(local, gradient.contiguous())
        return local


def gather(local: torch.Tensor) -> torch.Tensor:
    """[n, …] of this rank → [world_size · n, …] in rank order, without a gradient. All ranks bring the same
    shape."""
    if not dist.is_initialized():
        return local
    everyone = local.new_empty((dist.get_world_size() * local.shape[0], *local.shape[1:]))
    _all_gather(everyone, local.contiguous())
    return everyone


def gather_with_gradient(local: torch.Tensor) -> torch.Tensor:
    """As `gather`; the backward pass sums every rank's gradient for this rank's rows, in the tensor's own
    dtype (fp32)."""
    return _Gather.apply(local) if dist.is_initialized() else local
