"""Draws: where a unit falls in [0, 1) for its subtype and for each slot, spread evenly over the units.

Independent draws leave a small plan without some of its subtypes. Here the places of a stage's stream come in
blocks of 4096: a block's draws of one name fall once into each 4096th of [0, 1); the block's first 2, 4, 8, …
once into each half, quarter, eighth …; and so does any aligned stretch of 2ᵏ. Two names that belong together
are the two axes of one (0, 2)-sequence in base 2 (Sobol' 1967): 2ᵏ places also fall once into each rectangle
of 2⁻ʲ by 2ʲ⁻ᵏ. Places are shuffled by nested flips (Owen 1995) and numbers shifted, anew for each plan, name
and block, so that names that do not belong together meet at random.

Each draw is a function of the plan's hash, its name and its place: no unit needs another to be rebuilt.
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from mgh_ds.synthesis.units import SynthesisStage, Task, Unit

BITS = 12
BLOCK = 2**BITS  # places
FRACTION = 53  # bits of a float in [0, 1)
GOLDEN = (5**0.5 - 1) / 2
# The slot that is the second axis beside the subtype; in stage 2 beside the task's place among subtypes and
# domains.
SECOND_AXIS: dict[SynthesisStage, str] = {"tasks": "domain", "samples": "language"}


class Draws:
    """The draws of one stage of a plan. `tasks` are stage 2's in the order of `in_turn`; none in stage 1."""

    def __init__(self, plan_hash: str, stage: SynthesisStage, tasks: Sequence[Task] = ()):
        self._key, self._stage = f"{plan_hash}\0{stage}", stage
        self._places = {task.task_id: place for place, task in enumerate(tasks)}
        self._starts = {task.task_id: start for task, _, start in _stratified(plan_hash, tasks)}

    def position(self, unit: Unit, name: str) -> float:
        """The unit's number in [0, 1) for `subtype` or a slot."""
        if self._stage == "samples" and name == SECOND_AXIS["samples"]:
            # From one pass over the tasks to the next a task's languages follow each other evenly, too.
            return (self._starts[unit.task_id] + unit.index * GOLDEN) % 1.0
        place = unit.index
        if self._stage == "samples":
            place = unit.index * len(self._places) + self._places[unit.task_id]
        elif name in ("subtype", SECOND_AXIS["tasks"]):
            return spread(self._key, place, axis=int(name != "subtype"))
        return spread(f"{self._key}\0{name}", place)


def in_turn(plan_hash: str, tasks: Iterable[Task]) -> list[Task]:
    """The tasks in an order in which every stretch has its share of each subtype, and of each domain within
    it."""
    return [task for task, _, _ in sorted(_stratified(plan_hash, tasks), key=lambda one: one[1])]


def spread(key: str, place: int, axis: int = 0) -> float:
    """The number in [0, 1) of a place, 0, 1, 2, …, on one of two axes."""
    block, within = divmod(place, BLOCK)
    return float(_block(key, block, axis)[within])


def _stratified(plan_hash: str, tasks: Iterable[Task]) -> list[tuple[Task, float, float]]:
    """The tasks by subtype, domain and id, each with its two numbers: its turn, and where its languages
    begin. By subtype and domain a task's place is a third axis, as even as the two."""
    key = f"{plan_hash}\0turns"
    ranked = sorted(tasks, key=lambda task: (task.subtype, task.domain, task.task_id))
    return [(task, spread(key, rank), spread(key, rank, axis=1)) for rank, task in enumerate(ranked)]


@functools.lru_cache(maxsize=128)
def _block(key: str, block: int, axis: int) -> NDArray[np.float64]:
    """The numbers of a block on an axis, `[4096]`."""
    coins = np.unpackbits(_bytes(BLOCK // 8, key, block))
    numbers = (_sobol if axis else _bits_reversed)(_shuffled(coins))
    # Within its 4096th of [0, 1) a number is drawn, and the 4096ths are shifted.
    drawn = _bytes(8 * (BLOCK + 1), key, block, axis).view("<u8")
    strata = numbers.astype(np.uint64) ^ (drawn[-1] >> np.uint64(64 - BITS))
    fractions = drawn[:-1] >> np.uint64(64 - FRACTION + BITS)
    return (strata << np.uint64(FRACTION - BITS) | fractions) * 2.0**-FRACTION


def _shuffled(coins: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The places of a block, each bit flipped, or not, by the coin of the bits above it: aligned stretches of
    2ᵏ stay together."""
    places = np.arange(BLOCK, dtype=np.int64)
    for bit in reversed(range(BITS)):
        places ^= coins[(BLOCK | places) >> (bit + 1)].astype(np.int64) << bit
    return places


def _bits_reversed(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first axis: van der Corput's sequence, as integers below 4096."""
    values = np.zeros_like(places)
    for bit in range(BITS):
        values |= (places >> bit & 1) << (BITS - 1 - bit)
    return values


def _sobol(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The second axis: that of Sobol's sequence, as integers below 4096."""
    values, direction = np.zeros_like(places), BLOCK >> 1
    for bit in range(BITS):
        values ^= direction * (places >> bit & 1)
        direction ^= direction >> 1
    return values


def _bytes(count: int, *names: object) -> NDArray[np.uint8]:
    digest = hashlib.shake_128("\0".join(map(str, names)).encode()).digest(count)
    return np.frombuffer(digest, dtype=np.uint8)
