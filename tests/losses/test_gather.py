"""Ranks that gather whole, positives only, within groups or round a ring have the loss and gradient of one
process, and receive the bytes that the arithmetic says and no more."""

import pytest

from tests.losses import gather_worker
from tests.ranks import run_ranks


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_way_of_gathering_gives_the_gradient_of_one_process(world_size: int) -> None:
    for output in run_ranks(world_size, gather_worker.main):
        assert f"{len(gather_worker.CASES)} cases" in output
