"""Reads a compiled kernel's machine code: what one score costs in its inner loops, and what bounds the chip.

The figures are static. They say how many instructions a loop issues, not how long it takes: no clock ran.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import triton

WARP = 32
# What one SM can do in a cycle, sm_90: instructions issued, exponentials, multiplications of bf16 by `wgmma`
# and, at half their rate, by `mma.sync`.
ISSUED, EXPONENTIALS, WGMMA, MMA = 4 * WARP, 16, 2048, 1024

_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", re.MULTILINE)
_SHAPE = re.compile(r"\.(\d+)x(\d+)x(\d+)\.")


class Instruction(NamedTuple):
    """One line of machine code; predicates are left out."""

    address: int
    name: str
    operands: str


class Loop(NamedTuple):
    """An inner loop with tensor-core products, or in fp32 without: what one score costs in it.

    `instructions`, `exponentials`: issued by single threads. `multiplications`: of the tensor cores.
    `serialised`: a product of `wgmma` waits for the one before, though both add to the same registers: what
    ptxas warns of as C7515. `barriers`: a step, of the whole program. `during_products`: the share of the
    exponentials that are issued while a product of `wgmma` is under way. `spills`: instructions that put
    registers away or fetch them.
    """

    instructions: float
    exponentials: float
    multiplications: float
    wgmma: bool
    serialised: bool
    barriers: int
    during_products: float
    spills: int

    @property
    def overlapped(self) -> float:
        """Cycles that an SM needs for 1,000 scores if all its parts work at once: those of the busiest."""
        return 1000 * max(self._tensor_cores, *self._others)

    @property
    def serial(self) -> float:
        """The same if nothing else happens while tensor cores work."""
        return 1000 * (self._tensor_cores + max(self._others))

    @property
    def _tensor_cores(self) -> float:
        return self.multiplications / (WGMMA if self.wgmma else MMA)

    @property
    def _others(self) -> tuple[float, float]:
        return self.instructions / ISSUED, self.exponentials / EXPONENTIALS


def dumped(cubin: bytes) -> str:
    """The registers and stack that the kernel of a cubin takes, and its machine code, as text."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", "--dump-sass", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def parsed(text: str) -> list[Instruction]:
    """The instructions in what `dumped` returns."""
    return [
        Instruction(int(address, 16), name, operands.strip())
        for address, name, operands in _INSTRUCTION.findall(text)
    ]


def inner_loops(code: Sequence[Instruction], scores: Sequence[int], warps: int) -> list[Loop]:
    """The innermost loops that compute exponentials, in order. A step makes one of the numbers `scores` of
    them: the one that its exponentials come nearest to."""
    found = []
    for body in _innermost(code):
        exponentials = WARP * warps * sum(one.name == "MUFU.EX2" for one in body)
        if exponentials:
            found.append(_loop(body, min(scores, key=lambda each: abs(exponentials - each)), warps))
    return found


def _innermost(code: Sequence[Instruction]) -> Iterator[Sequence[Instruction]]:
    """Bodies of the loops that hold no other: from the target of a backward branch up to it."""
    places = {one.address: place for place, one in enumerate(code)}
    ends = []
    for place, one in enumerate(code):
        target = re.search(r"0x([0-9a-f]+)", one.operands) if one.name == "BRA" else None
        if target and int(target[1], 16) < one.address:
            ends.append((places[int(target[1], 16)], place))
    for first, last in ends:
        if not any((first, last) != other and first <= other[0] and other[1] <= last for other in ends):
            yield code[first : last + 1]


def _loop(body: Sequence[Instruction], scores: int, warps: int) -> Loop:
    a_score = WARP * warps / scores
    products = [one for one in body if one.name.startswith(("HGMMA", "HMMA"))]
    wgmma = any(one.name.startswith("HGMMA") for one in products)
    return Loop(
        instructions=len(body) * a_score,
        exponentials=sum(one.name == "MUFU.EX2" for one in body) * a_score,
        multiplications=sum(_multiplications(one, warps) for one in products) / scores,
        wgmma=wgmma,
        serialised=any(_waits(*pair) for pair in pairwise(products)),
        barriers=sum(one.name.startswith(("BAR.SYNC", "WARPSYNC.COLLECTIVE")) for one in body),
        during_products=_during_products(body),
        spills=sum(one.name.startswith(("LDL", "STL")) for one in body),
    )


def _during_products(body: Sequence[Instruction]) -> float:
    """A product that no step waits for is under way in the next."""
    marks = [one for one in body if one.name.startswith(("HGMMA", "WARPGROUP.DEPBAR"))]
    under_way, during = bool(marks) and marks[-1].name.startswith("HGMMA"), []
    for one in body:
        if one.name.startswith(("HGMMA", "WARPGROUP.DEPBAR")):
            under_way = one.name.startswith("HGMMA")
        elif one.name == "MUFU.EX2":
            during.append(under_way)
    return sum(during) / len(during)


def _multiplications(product: Instruction, warps: int) -> int:
    """Of one instruction, in all warps; `wgmma` is one of four warps together."""
    if product.name.startswith("HGMMA"):
        shape = _SHAPE.search(product.name)
        assert shape is not None, product
        return int(shape[1]) * int(shape[2]) * int(shape[3]) * warps // 4
    return 16 * 8 * (16 if ".16816." in product.name else 8) * warps


def _waits(first: Instruction, second: Instruction) -> bool:
    """Whether `second`, which adds to the registers of `first`, has to wait for it: `first` ends a group."""
    if not (first.name.startswith("HGMMA") and second.name.startswith("HGMMA")):
        return False
    same = first.operands.split(",")[0] == second.operands.split(",")[0]
    return same and "gsb0" in first.operands and "RZ" not in second.operands
