"""Tile sizes, fixed per architecture, so that results do not depend on an autotuner's mood.

`tables/sm_90.json` serves chips of compute capability 9.x; `tables/sm_80.json` serves all others from 8.0 on,
and keeps to the smallest shared memory among them. `benchmarks/tune.py` writes them. Each says under "source"
how it came about, and maps kernel → bytes per element → head dimension → [own, step, warps, stages], or
[own, step, warps, stages, true] for a tile that works ahead; behind `true` or `false` may stand `whole`.
"""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

TABLES = Path(__file__).parent / "tables"
# Head dimensions that have tiles of their own; one in between takes those of the next.
HEAD_DIMS = (32, 64, 96, 128, 256)
# The longest sequences that `fused` takes. With 256 keys its rows leave registers for 16 of them at a time,
# too few for `wgmma`: 28 instructions a score in its machine code, where two passes together have 17.
FUSED_MAX_SEQLEN = 128
# Bytes of shared memory that the keys and values of its sequence may fill, by table.
FUSED_SHARED_MEMORY = {"sm_80": 64 * 1024, "sm_90": 128 * 1024, "interpreter": 2**30}


class Tile(NamedTuple):
    """Rows that a program owns, rows that it reads in one step, and how the compiler is to arrange it.

    Of `attention` alone, `ahead`: whether a step's values are multiplied during the next step's softmax; and
    `whole`, where it is not 0: rows that it reads in a step without a mask, by tensor descriptors.
    """

    own: int
    step: int
    warps: int
    stages: int
    ahead: bool = False
    whole: int = 0

    @property
    def listed(self) -> list[int]:
        """As a table has it."""
        return list(self[: 6 if self.whole else 4 + self.ahead])


# Small, so that even the short sequences of tests are cut into several.
INTERPRETED = Tile(16, 16, 1, 1)


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU."""
    return bool(triton.knobs.runtime.interpret)


def table_of(device: torch.device) -> str:
    """Name of the table for a device."""
    if interpreted():
        return "interpreter"
    major, _ = torch.cuda.get_device_capability(device)
    return "sm_90" if major == 9 else "sm_80"


def padded_head_dim(head_dim: int) -> int:
    """The power of two that the kernels compute with."""
    return max(HEAD_DIMS[0], triton.next_power_of_2(head_dim))


def tile(kernel: str, table: str, head_dim: int, dtype: torch.dtype) -> Tile:
    """The tile of one kernel for tensors of `head_dim` and `dtype`."""
    if table == "interpreter":
        return INTERPRETED
    entry = min(d for d in HEAD_DIMS if d >= head_dim)
    return Tile(*read(table)[kernel][str(dtype.itemsize)][str(entry)])


def fused_keys(longest: int | None, table: str, head_dim: int, dtype: torch.dtype) -> int | None:
    """The number of keys that `fused` is to keep on the chip; None where it cannot."""
    if longest is None or longest > FUSED_MAX_SEQLEN:
        return None
    keys = max(INTERPRETED.own if table == "interpreter" else 64, triton.next_power_of_2(longest))
    if table != "interpreter" and dtype.itemsize > 2:
        return None  # without tensor cores its rows do not fit the registers
    if 2 * keys * padded_head_dim(head_dim) * dtype.itemsize > FUSED_SHARED_MEMORY[table]:
        return None
    return keys


@functools.cache
def read(table: str) -> dict[str, Any]:
    """A table as its file has it."""
    return json.loads((TABLES / f"{table}.json").read_text(encoding="utf-8"))
