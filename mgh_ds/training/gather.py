"""How embeddings reach other ranks, with a gradient: all at once, or round a ring.

With the loss taken over the local rows and gradients averaged over the ranks (which DeepSpeed does), a gather
whose backward is a reduce-scatter, or a ring in which the gradient travels home with its vectors, gives
exactly the gradient of one process that holds the whole batch.
"""

import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from mgh_ds.distributed.group import TIMEOUT

# torch 2.13 renames both collectives and warns at the old names; 2.11 and 2.12 know the old ones only.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def pool_group(pools: int) -> dist.ProcessGroup | None:
    """The ranks that this one exchanges embeddings with; None for a process on its own.

    Where `pools` divides the number of ranks, they are those that work on the same pool, rank r on pool
    r % pools; otherwise all of them. Ranks must make their first call with a number of pools together.
    """
    world = dist.group.WORLD
    if world is None or pools == 1 or world.size() % pools:
        return world
    return _pool_group(world, pools)


@functools.cache
def _pool_group(world: dist.ProcessGroup, pools: int) -> dist.ProcessGroup:
    ranks = [list(range(pool, world.size(), pools)) for pool in range(pools)]
    group, _ = dist.new_subgroups_by_enumeration(ranks, timeout=TIMEOUT)
    return group


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.rows, ctx.group = local.shape[0], group
        return gather(local, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        local = gradient.new_empty((ctx.rows, *gradient.shape[1:]))
        _reduce_scatter(local, gradient.contiguous(), group=ctx.group)
        return local, None


def gather(local: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    """[n, …] of this rank → [group's size · n, …] in rank order, without a gradient. All ranks bring the same
    shape."""
    if group is None:
        return local
    everyone = local.new_empty((group.size() * local.shape[0], *local.shape[1:]))
    _all_gather(everyone, local.contiguous(), group=group)
    return everyone


def gather_with_gradient(local: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    """As `gather`; the backward pass sums every rank's gradient for this rank's rows, in the tensor's own
    dtype (fp32)."""
    return local if group is None else _Gather.apply(local, group)


class Ring:
    """Ranks that hand tensors on, each to the next and the last to the first; without a group, one process
    that keeps its own. All ranks bring the same shapes."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group, self.size = group, group.size() if group else 1

    def visits(self, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Every rank's tensors in turn, this one's first; the next are on their way while these are at
        work."""
        present = tuple(tensor.contiguous() for tensor in tensors)
        for left in reversed(range(self.size)):
            requests, coming = self._send(present) if left else ([], ())
            yield present
            _wait(requests)
            present = coming

    def pass_on(self, tensor: torch.Tensor) -> torch.Tensor:
        """Gives `tensor` to the next rank and returns the previous one's. What is passed on after each of the
        visits follows its visitor, and comes home with the last."""
        if self.size == 1:
            return tensor
        requests, (received,) = self._send((tensor,))
        _wait(requests)
        return received

    def _send(self, tensors: tuple[torch.Tensor, ...]) -> tuple[list[dist.Work], tuple[torch.Tensor, ...]]:
        assert self.group is not None
        place, coming = self.group.rank(), tuple(torch.empty_like(tensor) for tensor in tensors)
        after, before = (dist.get_global_rank(self.group, (place + way) % self.size) for way in (1, -1))
        sent = [dist.P2POp(dist.isend, tensor, after, self.group) for tensor in tensors]
        received = [dist.P2POp(dist.irecv, tensor, before, self.group) for tensor in coming]
        return dist.batch_isend_irecv(sent + received), coming


def _wait(requests: list[dist.Work]) -> None:
    for request in requests:
        request.wait()


ALONE = Ring()
