"""Operations that an attention needs, and the time below which no kernel of its kind can be.

The floor is a serial model: all matrix products at the dense bf16 rate, then all exponentials at theirs. It
knows nothing of memory: short sequences are bound by that, and stay well below a share of 1.
"""

import re
from typing import NamedTuple

from benchmarks.cases import Case


class Work(NamedTuple):
    """What a kernel computes for each pair of a query and a key: products of length `d`, and exponentials.

    A product is 2·d FLOP. Attention needs two, its gradient five if nothing is computed twice but the scores.
    """

    products: int
    exponentials: int


class Chip(NamedTuple):
    """Dense bf16 FLOP/s and exponentials/s."""

    flops: float
    exponentials: float


HOPPER = Chip(989e12, 3.9e12)

# FLOP of the useful products, whatever a kernel computes again: what published figures count.
FORWARD_PRODUCTS, BACKWARD_PRODUCTS, COLUMN_PRODUCTS = 2, 5, 1


def chip_of(name: str) -> Chip | None:
    """The rates of a GPU by its name; None if they are not known. Slices, PCIe and NVL cards are slower."""
    return HOPPER if re.fullmatch(r"NVIDIA (H200|H100( 80GB HBM3)?)", name) else None


def flops(case: Case, products: int) -> float:
    """FLOP of `products` matrix products over all pairs: `4·n²·d·H` a sequence for the two of attention."""
    return 2.0 * products * case.pairs * case.d * case.heads


def floor_ms(case: Case, work: Work, chip: Chip) -> float:
    """Milliseconds that the chip needs at least, in the serial model."""
    seconds = flops(case, work.products) / chip.flops
    seconds += case.pairs * case.heads * work.exponentials / chip.exponentials
    return 1e3 * seconds
