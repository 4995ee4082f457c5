"""Compiles the kernels for a chip that need not be there, and reads off what became of them.

Compilation goes through `ata_attention.gpu.launch`, the very code that starts the kernels, with a driver that
merely names the chip: what is inspected is what would run, down to the specialisation on strides and
alignment.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from ata_attention.gpu import launch, tiles
from ata_attention.gpu.launch import Batch
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from benchmarks.machine_code import Loop, dumped, inner_loops, parsed

# Shared memory that one program may have, in bytes: what 8.6, 8.9 and 12.0 have, and 9.0.
SHARED = {"sm_80": 99 * 1024, "sm_90": 227 * 1024}
# Instructions of the tensor cores, the better ones first.
TENSOR_CORES = ("wgmma.mma_async", "mma.sync")
# Bytes of registers that may spill. fp32 goes without tensor cores, and a product holds whole rows in
# registers: those of 256 do not fit, and elsewhere the assembler likes to spill a few bytes. In half
# precision these may, where a larger tile saves far more work than a few bytes cost: 128 rows of queries
# under a mask with holes, and keys of head dimension 256.
MAY_SPILL_FP32 = 240
MAY_SPILL_HALF = {"backward_dq_columns": 32, "backward_dkv": 16, "backward_dkv_columns": 16}
# Steps by descriptors leave no room for a few numbers of a packed or masked batch that nothing needs before
# the last keys are read: they may be put away, outside all loops.
MAY_SPILL_DESCRIBED = 24
# Shared memory and registers of one SM, and threads that may wait on it at once.
SHARED_AN_SM = {"sm_80": 100 * 1024, "sm_90": 228 * 1024}
REGISTERS_AN_SM, THREADS_AN_SM = 65536, {"sm_80": 1536, "sm_90": 2048}
# How sequences lie, padded ones with or without a mask of tokens, which may have holes; and how far a query
# sees to either side.
LAYOUTS = ("packed", "padded", "masked", "holed")
Sides = tuple[int | None, int | None]
SIGHT: dict[str, Sides] = {"": (None, None), " causal": (None, 0), " window": (128, 128)}
VARIANTS = tuple(layout + sight for layout in LAYOUTS for sight in SIGHT)
FUSED_KERNELS = ("fused_64", "fused_128")
KERNELS = (
    "attention",
    "column_sums",
    "backward_dq",
    "backward_dq_columns",
    "backward_dkv",
    "backward_dkv_columns",
    *FUSED_KERNELS,
)


class Compiled(NamedTuple):
    """One kernel as the compiler left it.

    `shared` is its shared memory and `spills` its stack frame, where registers that do not fit are kept, in
    bytes; `tensor_cores` is the best of TENSOR_CORES that it uses; `loops` are its inner ones; `described`:
    whether it reads by tensor descriptors.
    """

    kernel: str
    registers: int
    spills: int
    shared: int
    tensor_cores: str | None
    warps: int = 4
    loops: tuple[Loop, ...] = ()
    described: bool = False

    @property
    def interior(self) -> Loop:
        """The loop in which long sequences spend their time: the one with the fewest instructions."""
        return min(self.loops, key=lambda loop: loop.instructions)

    @property
    def serialised(self) -> bool:
        return any(loop.serialised for loop in self.loops)

    def programs_an_sm(self, table: str) -> int:
        """How many fit on one SM at once; registers are handed out in blocks of 8 a thread."""
        threads = 32 * self.warps
        registers = REGISTERS_AN_SM // (threads * -(-self.registers // 8) * 8)
        shared = SHARED_AN_SM[table] // (self.shared + 1024)
        return min(registers, shared, THREADS_AN_SM[table] // threads)

    def fault(self, table: str, entry: str, dtype: torch.dtype, head_dim: int) -> str | None:
        """What is wrong with it as `entry`, one of KERNELS, of a table; None if nothing is."""
        may_spill = MAY_SPILL_FP32 if dtype.itemsize == 4 else MAY_SPILL_HALF.get(entry, 0)
        if self.described and not any(loop.spills for loop in self.loops):
            may_spill = max(may_spill, MAY_SPILL_DESCRIBED)
        if self.spills > may_spill:
            return f"{self.kernel} spills {self.spills} bytes of registers"
        if self.shared > SHARED[table]:
            return f"{self.kernel} wants {self.shared} bytes of shared memory, of {SHARED[table]}"
        # fp32 is computed in fp32, for which there are no tensor cores.
        if dtype.itemsize == 2 and self.tensor_cores not in _expected(table, entry, head_dim):
            return f"{self.kernel} uses {self.tensor_cores} of the tensor cores' instructions"
        return None


def _expected(table: str, entry: str, head_dim: int) -> tuple[str, ...]:
    """wgmma works on 64 rows at once. The fused kernel's rows, if wide, leave no registers for so many."""
    if table == "sm_80":
        return TENSOR_CORES[1:]
    crowded = entry in FUSED_KERNELS and head_dim == 256
    return TENSOR_CORES if crowded else TENSOR_CORES[:1]


@contextmanager
def compiling_for(table: str) -> Iterator[list[Compiled]]:
    """Inside, kernels are compiled for `sm_80` or `sm_90` instead of run; each adds itself to the list."""
    if tiles.interpreted():
        raise RuntimeError("Triton's interpreter is on, and compiles nothing: unset TRITON_INTERPRET")
    found: list[Compiled] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:  # noqa: ARG001
        # Triton remembers what it has compiled by the number of the device, and here all chips are number 0.
        before = self.device_caches.pop(0, None)
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        del self.device_caches[0]
        if before is not None:
            self.device_caches[0] = before
        own = options.get("OWN", options.get("KEYS", 0))
        steps = {options[name] for name in ("STEP", "WHOLE") if name in options}
        found.append(_inspect(self.__name__, kernel, sorted(own * step for step in steps)))

    driver = triton.runtime.driver
    before = driver._active
    driver.set_active(_Chip(int(table.removeprefix("sm_"))))
    try:
        with (
            mock.patch.object(JITFunction, "run", compile_only),
            mock.patch.object(tiles, "table_of", return_value=table),
        ):
            yield found
    finally:
        driver._active = before


class _Chip:
    """As much of a Triton driver as compiling asks for."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0


def _inspect(name: str, kernel: Any, scores: Sequence[int]) -> Compiled:
    """What the binary says of itself: Triton keeps no such account, and asks the chip, when it is there.

    Each step of an inner loop computes so many scores as one of `scores` says.
    """
    report = dumped(kernel.asm["cubin"])
    registers, stack = (re.search(rf"{key}:(\d+)", report) for key in ("REG", "STACK"))
    assert registers is not None, report
    assert stack is not None, report
    warps = kernel.metadata.num_warps
    return Compiled(
        kernel=name,
        registers=int(registers[1]),
        spills=int(stack[1]),
        shared=kernel.metadata.shared,
        tensor_cores=next((name for name in TENSOR_CORES if name in kernel.asm["ptx"]), None),
        warps=warps,
        loops=tuple(inner_loops(parsed(report), scores, warps)) if scores else (),
        described="cp.async.bulk.tensor" in kernel.asm["ptx"],
    )


def start(kernel: str, variant: str, head_dim: int, dtype: torch.dtype) -> None:
    """Starts one of KERNELS on a small batch of one of VARIANTS.

    A mask with holes starts two, of which the last is meant: the first is for sequences that have none.
    """
    q, k, batch = _inputs(variant, head_dim, dtype)
    numbers = launch.new_numbers(q, batch.packed)
    d_sums = numbers if kernel.endswith("columns") else None
    match kernel:
        case "attention":
            launch.attention(q, k, k, batch)
        case "column_sums":
            launch.column_sums(q, k, numbers, batch)
        case "backward_dq" | "backward_dq_columns":
            launch.backward_dq(q, d_sums, q, k, k, q, numbers, batch)
        case "backward_dkv" | "backward_dkv_columns":
            launch.backward_dkv(q, d_sums, q, k, k, numbers, numbers, batch)
        case _:
            launch.fused(q, k, k, batch, int(kernel.removeprefix("fused_")))


def is_shipped(kernel: str, table: str, head_dim: int, dtype: torch.dtype) -> bool:
    """Whether `launch` ever starts `kernel` for tensors like this."""
    if kernel not in FUSED_KERNELS:
        return True
    keys = int(kernel.removeprefix("fused_"))
    return tiles.fused_keys(keys, table, head_dim, dtype) is not None


def _inputs(variant: str, head_dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, Batch]:
    """Queries of eight heads, keys of two or eight, and how they lie: no number of rows is a multiple of a
    tile, so that nothing is compiled for a lucky case."""
    layout, _, sight = variant.partition(" ")
    left, right = SIGHT[f" {sight}" if sight else ""]
    if layout == "packed":
        q, k = (torch.zeros(67, heads, head_dim, dtype=dtype) for heads in (8, 2))
        bounds = torch.tensor([0, 3, 3, 67], dtype=torch.int32)
        return q, k, Batch(None, bounds, 64, 1.0, left, right)
    # As a transformer has them: [B, N, H, D] in memory.
    q, k = (torch.zeros(2, 67, 8, head_dim, dtype=dtype).transpose(1, 2) for _ in range(2))
    if layout == "padded":
        return q, k, Batch(None, None, 67, 1.0, left, right)
    tokens = torch.ones(2, 67, dtype=torch.uint8) if layout == "holed" else None
    return q, k, Batch(tokens, None, 67, 1.0, left, right, torch.zeros(2, 3, dtype=torch.int32))
