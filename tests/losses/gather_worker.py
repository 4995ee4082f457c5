"""One rank of the gather test: its part of a random batch, through every loss and every way of gathering,
against the formula written out with loops over all of it. Some with a guide."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, Literal
from unittest import mock

import torch
import torch.distributed as dist

from benchmarks.gather import Way, received_bytes
from mgh_ds.distributed import group
from mgh_ds.distributed.group import all_sum, process_group, rank, world_size
from mgh_ds.losses import AnyLossSettings, InfoNCESettings, gather, make_loss
from mgh_ds.losses.base import Labels
from mgh_ds.losses.gather import Exchange
from mgh_ds.losses.settings import GuideSettings
from tests.losses import cases
from tests.losses.brute_force import mean_loss
from tests.losses.test_info_nce import guided, make_batch

RECORDS, NEGATIVES = 12, 2
# InfoNCE with own_negatives_only, symmetric, and few texts (many of them twice) with a margin and weights or
# many without; then every other loss. Each with one negative group and with two.
INFO_NCE = [
    (
        texts,
        InfoNCESettings(
            temperature=0.05,
            own_negatives_only=own,
            symmetric=symmetric,
            false_negative_margin=margin,
            hardness=hardness,
            level_weights=weights,
        ),
    )
    for own, symmetric, (texts, margin, hardness, weights) in itertools.product(
        (False, True), (False, True), ((15, 0.1, 9.0, [0.0, 0.5, 1.0, 3.0]), (1000, None, 0.0, None))
    )
]
GUIDED = [
    InfoNCESettings(temperature=0.05, symmetric=True),
    InfoNCESettings(temperature=0.05, symmetric=True, own_negatives_only=True, false_negative_margin=0.1),
    cases.CASES["matryoshka of a sum"],
]
GUIDE = GuideSettings(name_or_path="any", margin=0.1, own_negatives=True)
CASES: list[tuple[int, int, AnyLossSettings, GuideSettings | None]] = [
    (groups, texts, settings, None)
    for groups in (1, 2)
    for texts, settings in INFO_NCE + [(15, settings) for settings in cases.CASES.values()]
]
CASES += [(groups, 1000, settings, GUIDE) for groups in (1, 2) for settings in GUIDED]


def main() -> None:
    with process_group():
        torch.set_num_threads(1)  # for tensors this small, threads would only wait for each other
        for seed, (groups, texts, settings, guide) in enumerate(CASES):
            embeddings, labels = make_batch(seed, RECORDS, NEGATIVES, texts, groups)
            labels = guided(labels, seed) if guide else labels
            loss = mean_loss(embeddings, labels, settings, guide)
            (gradient,) = torch.autograd.grad(loss, embeddings)
            way: Literal["whole", "ring"]
            for way in ("whole", "ring"):
                try:
                    check(embeddings, labels, settings, guide, way, groups, loss.detach(), gradient)
                except AssertionError as error:
                    raise AssertionError(
                        f"seed {seed}, {groups} groups, {way}, {settings}: {error}"
                    ) from None
        print(f"{len(CASES)} cases")


def check(
    embeddings: torch.Tensor,
    labels: Labels,
    settings: AnyLossSettings,
    guide: GuideSettings | None,
    way: Literal["whole", "ring"],
    groups: int,
    loss: torch.Tensor,
    gradient: torch.Tensor,
) -> None:
    records = labels.valid.sum()
    mine = own_records(groups)
    own = embeddings[mine].detach().requires_grad_()
    exchange = Exchange(way, groups)
    with counted() as received:
        total, statistics = make_loss(settings, exchange, guide)(own, labels[mine])
        (total * world_size() / records).backward()
    assert own.grad is not None
    exact = isinstance(settings, InfoNCESettings)
    # Singular values and square roots of matrices, of which one is the other's reference, are less exact.
    near = {"rtol": 1e-9, "atol": 1e-12} if exact else {"rtol": 1e-6, "atol": 1e-7}
    torch.testing.assert_close(own.grad / world_size(), gradient[mine], **near)
    near = {"rtol": 1e-12 if exact else 1e-9, "atol": 1e-12}
    torch.testing.assert_close(all_sum(total.detach()) / records, loss, **near)
    alone = make_loss(settings, exchange_of_one(groups), guide)(embeddings, labels).statistics
    assert list(statistics) == list(alone)
    for name, ratio in statistics.items():
        summed = all_sum(torch.stack([part.double() for part in ratio]))
        torch.testing.assert_close(
            summed, torch.stack([part.double() for part in alone[name]]), rtol=1e-9, atol=0
        )

    assert exchange.ranks is not None
    if not exact:
        return
    divided = groups if world_size() % groups == 0 else 1
    assert exchange.ranks.size() == world_size() // divided
    sent = Way(way, settings.own_negatives_only, settings.symmetric)
    expected = received_bytes(
        sent,
        len(mine),
        NEGATIVES,
        8,
        exchange.ranks.size(),
        float_bytes=8,
        guide=0 if labels.guide is None else labels.guide.shape[-1],
    )
    assert sum(received) == expected


def exchange_of_one(groups: int) -> Exchange:
    """As a process on its own has it."""
    exchange = Exchange("whole", groups)
    exchange.ranks = None
    return exchange


def own_records(groups: int) -> list[int]:
    """The records of this rank: of its own negative group alone, where groups divide the ranks."""
    if world_size() % groups:
        return list(range(rank(), RECORDS, world_size()))
    return list(range(RECORDS))[rank() % groups :: groups][rank() // groups :: world_size() // groups]


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
        mock.patch.object(group, "_all_gather", collective(group._all_gather)),
        mock.patch.object(gather, "_reduce_scatter", collective(gather._reduce_scatter)),
        mock.patch.object(dist, "batch_isend_irecv", point_to_point),
    ):
        yield received
