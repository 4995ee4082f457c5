"""One rank of the gather test: its share of random slots, through every way of gathering, against the formula
written out with loops over all of them."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from benchmarks.gather import received_bytes
from mgh_ds.distributed.group import all_sum, process_group, rank, world_size
from mgh_ds.training import gather
from mgh_ds.training.config import LossConfig
from mgh_ds.training.gather import pool_group
from mgh_ds.training.pool import Slots, contrast
from tests.training.brute_force import mean_loss
from tests.training.test_loss import make_slots

SLOTS, NEGATIVES = 12, 2
# own_negatives_only, symmetric, pools, and few texts (many of them twice) with a margin or many without one.
CASES = list(itertools.product((False, True), (False, True), (1, 2), ((15, 0.1), (1000, None))))


def main() -> None:
    with process_group():
        torch.set_num_threads(1)  # for tensors this small, threads would only wait for each other
        for seed, (own, symmetric, pools, (texts, margin)) in enumerate(CASES):
            everything = make_slots(seed, SLOTS, NEGATIVES, texts, pools)
            config = LossConfig(
                temperature=0.05, own_negatives_only=own, symmetric=symmetric, false_negative_margin=margin
            )
            loss = mean_loss(everything, config)
            (gradient,) = torch.autograd.grad(loss, everything.embeddings)
            for way in ("whole", "ring"):
                config = config.replace(gather=way)
                try:
                    check(everything, config, pools, loss.detach(), gradient)
                except AssertionError as error:
                    raise AssertionError(f"seed {seed}, {pools} pools, {config}: {error}") from None
        print(f"{len(CASES)} cases")


def check(
    everything: Slots, config: LossConfig, pools: int, loss: torch.Tensor, gradient: torch.Tensor
) -> None:
    records = everything.valid.sum()
    mine = share(pools)
    slots = Slots(*(getattr(everything, field.name)[mine] for field in dataclasses.fields(Slots)))
    embeddings = slots.embeddings.detach().requires_grad_()
    group = pool_group(pools)
    with counted() as received:
        loss_sum, counts = contrast(dataclasses.replace(slots, embeddings=embeddings), config, group)
        (loss_sum * world_size() / records).backward()
    assert embeddings.grad is not None
    torch.testing.assert_close(embeddings.grad / world_size(), gradient[mine], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(all_sum(loss_sum.detach()) / records, loss, rtol=1e-12, atol=1e-12)
    assert all_sum(counts).tolist() == contrast(everything, config, None)[1].tolist()

    assert group is not None
    divided = pools if world_size() % pools == 0 else 1
    assert group.size() == world_size() // divided
    assert sum(received) == received_bytes(config, len(mine), NEGATIVES, 8, group.size(), float_bytes=8)


def share(pools: int) -> list[int]:
    """The slots of this rank: of its own pool alone, where pools divide the ranks."""
    if world_size() % pools:
        return list(range(rank(), SLOTS, world_size()))
    return list(range(SLOTS))[rank() % pools :: pools][rank() // pools :: world_size() // pools]


@contextlib.contextmanager
def counted() -> Iterator[list[int]]:
    """Bytes that arrive from other ranks, a number for each exchange."""
    received: list[int] = []

    def collective(function: Any) -> Any:
        def call(output: torch.Tensor, local: torch.Tensor, group: dist.ProcessGroup) -> None:
            function(output, local, group=group)
            received.append(abs(output.nbytes - local.nbytes))

        return call

    def point_to_point(operations: list[dist.P2POp]) -> list[dist.Work]:
        received.append(sum(one.tensor.nbytes for one in operations if one.op is dist.irecv))
        return batch_isend_irecv(operations)

    batch_isend_irecv = dist.batch_isend_irecv
    with (
        mock.patch.object(gather, "_all_gather", collective(gather._all_gather)),
        mock.patch.object(gather, "_reduce_scatter", collective(gather._reduce_scatter)),
        mock.patch.object(dist, "batch_isend_irecv", point_to_point),
    ):
        yield received
