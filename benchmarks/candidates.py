"""Tiles worth trying for each kernel, the most promising first.

A larger tile reads less and keeps the tensor cores busier, until its registers or shared memory run out; so
each list begins with what only just fits the smaller head dimensions and goes down from there.
"""

from typing import NamedTuple

import torch
from ata_attention.gpu import tiles
from ata_attention.gpu.tiles import Tile

from benchmarks import compiled

DTYPES = {2: torch.bfloat16, 4: torch.float32}

Shape = tuple[int, int, int, int] | tuple[int, int, int, int, bool] | tuple[int, int, int, int, bool, int]
Shapes = tuple[Shape, ...]
Bands = tuple[tuple[int, Shapes], ...]
"""Tiles up to a head dimension. What larger ones would spill hopelessly takes minutes to compile."""

HALF: dict[str, Bands] = {
    "attention": (
        (64, (
            (128, 128, 8, 2), (128, 64, 4, 3), (128, 64, 8, 3), (128, 64, 4, 2), (64, 64, 4, 3),
            (128, 64, 8, 3, True), (128, 128, 8, 2, True), (128, 64, 8, 3, False, 128),
            (128, 64, 8, 3, True, 128),
        )),
        (128, (
            (128, 128, 8, 2), (128, 64, 8, 3, True, 128), (128, 64, 8, 3, True), (128, 64, 8, 3),
            (128, 64, 8, 2), (64, 64, 4, 3), (64, 64, 4, 2), (128, 32, 8, 2), (64, 32, 4, 2),
            (128, 128, 8, 2, True),
        )),
        (256, (
            (128, 64, 8, 2), (128, 32, 8, 3), (128, 32, 8, 2), (64, 32, 4, 2), (64, 32, 8, 2), (64, 32, 4, 1),
            (128, 32, 8, 3, True), (128, 32, 8, 2, True, 64),
        )),
    ),
    "column_sums": (
        (128, (
            (128, 128, 8, 3), (128, 128, 8, 2), (128, 64, 8, 3), (128, 64, 8, 2), (128, 64, 4, 3),
            (64, 64, 4, 2),
        )),
        (256, ((128, 128, 8, 2), (128, 64, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2), (64, 32, 4, 1))),
    ),
    "backward": (
        (64, (
            (128, 64, 8, 2), (64, 64, 4, 2), (128, 32, 8, 2), (64, 64, 8, 2), (64, 32, 4, 2), (128, 32, 8, 1),
            (128, 64, 8, 1),
        )),
        (128, (
            (128, 64, 8, 2), (128, 32, 8, 2), (64, 64, 8, 2), (64, 64, 8, 1), (64, 32, 4, 2), (64, 32, 8, 2),
            (64, 32, 8, 1), (64, 16, 8, 2),
        )),
        # An accumulator as wide as the head lives in registers: many warps, to spread it over.
        (256, (
            (128, 32, 8, 2), (64, 32, 4, 1), (128, 32, 8, 1), (64, 16, 4, 2), (32, 32, 4, 1), (64, 32, 8, 2),
            (64, 16, 8, 2), (64, 16, 8, 3), (64, 16, 8, 1), (64, 32, 16, 2), (64, 16, 16, 2), (64, 32, 8, 1),
            (32, 32, 8, 1), (32, 16, 8, 2), (32, 16, 4, 1), (32, 16, 8, 1), (16, 16, 4, 1), (16, 16, 8, 1),
        )),
    ),
}  # fmt: skip
# Without tensor cores a product is unrolled into single multiplications: large ones take minutes to compile.
FULL_TILES: Bands = (
    (64, ((32, 32, 4, 1), (32, 16, 4, 1), (16, 16, 4, 1), (16, 16, 8, 1))),
    (256, ((16, 16, 4, 1), (32, 16, 4, 1), (16, 16, 8, 1), (32, 16, 8, 1), (16, 16, 16, 1))),
)
FULL: dict[str, Bands] = {"attention": FULL_TILES, "column_sums": FULL_TILES, "backward": FULL_TILES}
# Step, warps, stages: a program of the fused kernel owns all keys of its sequence.
FUSED = ((64, 4, 1), (64, 8, 1), (32, 8, 1), (32, 4, 1), (16, 4, 1), (16, 8, 1))


class Entry(NamedTuple):
    """One place in a table."""

    kernel: str
    bytes: int
    dim: int

    @property
    def fused_keys(self) -> int | None:
        """Keys of a fused kernel; None for the others."""
        return int(self.kernel.rsplit("_", 1)[1]) if self.kernel in compiled.FUSED_KERNELS else None

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.bytes]

    def __str__(self) -> str:
        return f"{self.kernel} {self.bytes} {self.dim}"


def entries(table: str) -> list[Entry]:
    """Every place that the table must fill."""
    return [
        Entry(kernel, size, dim)
        for kernel in compiled.KERNELS
        for size in DTYPES
        for dim in tiles.HEAD_DIMS
        if compiled.is_shipped(kernel, table, dim, DTYPES[size])
    ]


def candidates(entry: Entry) -> list[Tile]:
    """In order of preference."""
    half, keys = entry.bytes == 2, entry.fused_keys
    if keys is not None:
        return [Tile(keys, *rest) for rest in FUSED]
    family = "backward" if "backward" in entry.kernel else entry.kernel
    bands = (HALF if half else FULL)[family]
    return [Tile(*shape) for shape in next(shapes for largest, shapes in bands if entry.dim <= largest)]
