"""How embeddings reach the other ranks of a negative group, with a gradient: all at once, or round a ring.

With the loss taken over the local rows and gradients averaged over the ranks (which DeepSpeed does), a gather
whose backward is a reduce-scatter, or a ring in which the gradient travels home with its vectors, gives
exactly the gradient of one process that holds the whole batch.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist

from mgh_ds.distributed.group import TIMEOUT, gather

# torch 2.13 renames it and warns at the old name; 2.11 and 2.12 know the old one only.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def ranks_of_group(negative_groups: int) -> dist.ProcessGroup | None:
    """The ranks that this one exchanges embeddings with; None for a process on its own.

    Where the number of negative groups divides that of the ranks, they are those that work on the same one,
    rank r on group r % negative_groups; otherwise all of them. Ranks must make their first call with a number
    of groups together.
    """
    world = dist.group.WORLD
    if world is None or negative_groups == 1 or world.size() % negative_groups:
        return world
    return _ranks_of_group(world, negative_groups)


@functools.cache
def _ranks_of_group(world: dist.ProcessGroup, negative_groups: int) -> dist.ProcessGroup:
    ranks = [list(range(group, world.size(), negative_groups)) for group in range(negative_groups)]
    own, _ = dist.new_subgroups_by_enumeration(ranks, timeout=TIMEOUT)
    return own


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


@dataclass(frozen=True)
class Candidates:
    """What queries are scored against: c texts for all of them, or c for each alone. `losses.keys` says what
    their keys are."""

    vectors: torch.Tensor  # float32 [c, d] or [n, c, d], unit length
    keys: torch.Tensor  # int64 [c, 4] or [n, c, 4]
    guide: torch.Tensor | None = None  # float32 [c, g] or [n, c, g], unit length: the guide's vectors, if any
    ring: Ring = field(default=ALONE, kw_only=True)  # the ranks whose queries they visit

    def visits(self) -> Iterator["Candidates"]:
        """Those of every rank of the ring in turn, this one's first, without a gradient."""
        return (Candidates(*visitors) for visitors in self.ring.visits(*self._tensors()))

    def __getitem__(self, block: slice) -> "Candidates":
        """Some of them, for all queries."""
        return Candidates(*(tensor[..., block, :] for tensor in self._tensors()))

    def _tensors(self) -> list[torch.Tensor]:
        return [self.vectors, self.keys, *([] if self.guide is None else [self.guide])]


class Exchange:
    """How a rank's candidates meet the queries of the other ranks of its negative group.

    Args:
        way: "whole" holds every rank's candidates at once, "ring" lets them come by rank after rank. The loss
            is the same.
        negative_groups: into how many groups the global batch is cut.

    All ranks make theirs together.
    """

    def __init__(self, way: Literal["whole", "ring"] = "whole", negative_groups: int = 1) -> None:
        self.way, self.negative_groups = way, negative_groups
        self.ranks = ranks_of_group(negative_groups)

    @property
    def place(self) -> int:
        """Of this rank among those that it exchanges embeddings with, whose rows come in this order."""
        return 0 if self.ranks is None else self.ranks.rank()

    def candidates(
        self, vectors: torch.Tensor, keys: torch.Tensor, guide: torch.Tensor | None = None
    ) -> Candidates:
        """Of all ranks, from this rank's: float32 [c, d], int64 [c, 4] and, where there is a guide, its
        float32 [c, g], which get no gradient; the same shapes on every rank."""
        if self.way == "ring":
            return Candidates(vectors, keys, guide, ring=Ring(self.ranks))
        return self.everyone(vectors, keys, guide)

    def gather(self, local: torch.Tensor) -> torch.Tensor:
        """The rows of all ranks of the group, in order; the gradient goes home to each."""
        return (
            gather_with_gradient(local, self.ranks)
            if local.is_floating_point()
            else gather(local, self.ranks)
        )

    def everyone(
        self, vectors: torch.Tensor, keys: torch.Tensor, guide: torch.Tensor | None = None
    ) -> Candidates:
        """As `candidates`, all at once whatever the way."""
        return Candidates(
            self.gather(vectors), self.gather(keys), None if guide is None else gather(guide, self.ranks)
        )
