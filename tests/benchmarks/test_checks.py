"""What the checks on the device find, in the interpreter."""

import dataclasses
import math

import pytest
import torch
from ata_attention.gpu import launch, tiles

from benchmarks import checks, gpu
from benchmarks.agenda import Task
from benchmarks.cases import Case
from benchmarks.contenders import OUR_SUMS

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.usefixtures("quick_interpreter", "interpreted_bfloat16"),
    pytest.mark.skipif(not tiles.interpreted(), reason="needs TRITON_INTERPRET=1"),
]
PADDED = Case("padded", (20, 0, 9), 2, 1, 32, torch.float16, causal=True)
HOLED = Case("padded", (20, 0, 9), 2, 1, 32, torch.float16, causal=True, holes=True)
PACKED = Case("packed", (19, 0, 1, 7), 2, 1, 32, torch.bfloat16, causal=False, window=(5, 2))


@pytest.mark.parametrize("case", [PADDED, HOLED, PACKED], ids=["masked", "holed", "packed"])
def test_sound_kernels_are_found_sound(case):
    row = checks.check(case, CPU)
    assert 0 < row.ratio <= 1
    assert row.note.startswith("fused; the largest: ")
    assert row.direction == "check"
    assert row.mask == {PADDED: "causal", HOLED: "causal, holes", PACKED: "full, window 5/2"}[case]


@pytest.mark.parametrize("holes", [False, True])
def test_masks_of_tokens_are_checked_in_two_passes_too(holes, monkeypatch):
    monkeypatch.setattr(tiles, "FUSED_MAX_SEQLEN", 0)
    row = checks.check(dataclasses.replace(HOLED, holes=holes), CPU)
    assert 0 < row.ratio <= 1
    assert row.note.startswith("two passes; the largest: ")


@pytest.mark.parametrize(
    ("name", "spoilt", "worst"),
    [
        ("backward_dkv", lambda d_k, d_v: (1.05 * d_k, d_v), "dk"),
        ("fused", lambda out, lse, sums: (out, lse, 1.001 * sums), "column sums"),
        ("backward_dq", lambda d_q, delta: (d_q.index_fill(0, torch.tensor(3), math.nan), delta), "dq"),
    ],
)
def test_what_is_wrong_is_found(name, spoilt, worst, monkeypatch):
    right = getattr(launch, name)
    monkeypatch.setattr(launch, name, lambda *arguments: spoilt(*right(*arguments)))
    row = checks.check(PACKED, CPU)
    assert row.ratio > 1
    assert worst in row.note


def test_different_bits_are_found(monkeypatch):
    right, calls = launch.fused, []

    def fused(*arguments):
        calls.append(arguments)
        out, lse, sums = right(*arguments)
        return out, lse, sums + 1e-7 * len(calls)

    monkeypatch.setattr(launch, "fused", fused)
    row = checks.check(PACKED, CPU)
    assert row.ratio == math.inf
    assert row.note.endswith("wrong: two runs gave different bits")


def test_a_check_that_cannot_be_made_is_a_row(monkeypatch):
    monkeypatch.setattr(launch, "fused", lambda *_: 1 / 0)
    (row,) = gpu.do(Task("check", PACKED, OUR_SUMS.what), CPU, None, None)
    assert row.note == "failed: ZeroDivisionError: division by zero"
    assert (row.direction, row.ratio) == ("check", None)
