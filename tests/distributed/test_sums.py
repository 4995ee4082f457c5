"""Numbers of several ranks, added up in one message."""

import torch

from mgh_ds.distributed.group import process_group, rank
from mgh_ds.distributed.sums import Sums
from tests.ranks import run_ranks


def _add_up() -> None:
    with process_group():
        own = rank() + 1
        sums = Sums(
            {
                "flag": float(rank() == 1),
                "table": torch.full((2, 3), own, dtype=torch.int64),
                "scalar": torch.tensor(0.5 * own, requires_grad=True),
                "large": float(2**52 - rank()),
                "none": torch.zeros(0, 2),
            }
        ).read()
        assert list(sums) == ["flag", "table", "scalar", "large", "none"]
        assert sums["flag"] == 1.0
        assert sums["table"].tolist() == [[3.0] * 3] * 2
        assert sums["scalar"].shape == ()
        assert sums["scalar"] == 1.5
        assert sums["large"] == 2**53 - 1
        assert sums["none"].shape == (0, 2)


def test_names_and_shapes_come_back() -> None:
    run_ranks(2, _add_up)


def test_a_process_on_its_own_keeps_its_numbers() -> None:
    sums = Sums({"one": 1.0, "two": torch.tensor([2.0, 3.0])}).read()
    assert (sums["one"], sums["two"].tolist()) == (1.0, [2.0, 3.0])
