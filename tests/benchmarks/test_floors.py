"""Arithmetic of operations and floors, against numbers worked out by hand."""

import pytest
import torch

from benchmarks import floors
from benchmarks.cases import Case
from benchmarks.contenders import OUR_OUT, OUR_SUMS, PLAIN
from benchmarks.floors import HOPPER, Work


def case(n: int, d: int, heads: int = 1, sequences: int = 1, causal: bool = False) -> Case:
    return Case("padded", (n,) * sequences, heads, heads, d, torch.bfloat16, causal)


def test_flops_of_attention_are_four_n_squared_d_h():
    shape = case(1000, 64, heads=16, sequences=2)
    forward = floors.flops(shape, floors.FORWARD_PRODUCTS)
    assert forward == 4 * 1000**2 * 64 * 16 * 2 == 8.192e9
    assert floors.flops(shape, floors.BACKWARD_PRODUCTS) == 2.5 * forward
    assert floors.flops(shape, floors.COLUMN_PRODUCTS) == 0.5 * forward


def test_a_causal_mask_leaves_half_and_the_diagonal():
    assert floors.flops(case(1000, 64, causal=True), 2) == 4 * 500_500 * 64


def test_the_floor_is_products_and_exponentials_one_after_the_other():
    # 1e12 pairs: 256e12 FLOP at 989e12/s take 258.8 ms, 1e12 exponentials at 3.9e12/s 256.4 ms.
    assert floors.floor_ms(case(10**6, 64), Work(2, 1), HOPPER) == pytest.approx(258.847 + 256.410, rel=1e-5)


@pytest.mark.parametrize(("d", "ratio"), [(64, 1.75), (128, 1.67)])
def test_the_model_gives_the_aims_for_the_column_sums(d, ratio):
    plain, sums = (
        floors.floor_ms(case(4096, d), contender.work, HOPPER) for contender in (OUR_OUT, OUR_SUMS)
    )
    assert sums / plain == pytest.approx(ratio, abs=0.005)
    assert floors.floor_ms(case(4096, d), PLAIN, HOPPER) == plain


@pytest.mark.parametrize("name", ["NVIDIA H200", "NVIDIA H100 80GB HBM3"])
def test_hopper_is_known(name):
    assert floors.chip_of(name) == HOPPER


@pytest.mark.parametrize(
    "name",
    ["NVIDIA H100 PCIe", "NVIDIA H200 NVL", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA A100-SXM4-80GB"],
)
def test_no_floor_for_chips_of_other_rates(name):
    assert floors.chip_of(name) is None
