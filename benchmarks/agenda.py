"""What is to be done on a GPU in a few minutes, and in which order: what decides comes first.

First whether the kernels are right, and, at the same time, compilation: both may run in many processes at
once. Then the measurements, one after another: cases that differ in one thing each, with the head dimensions
taking turns; the training step; and whatever else there is time for.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Literal, NamedTuple

import torch
from ata_attention.gpu import tiles

from benchmarks import cases, contenders
from benchmarks.cases import Case, Heads, Layout, packed_lengths, padded_lengths, realistic_lengths, row_of
from benchmarks.contenders import Contender
from benchmarks.table import Row

HALF = (torch.bfloat16, torch.float16)
# Those of most models, the larger one first: there ours has more to catch up with.
MAIN_DIMS = (128, 64)
TOKENS = 16384
STEP_TEXTS, STEP_LONGEST = 64, 512
STEP_ATA, STEP_MEAN = "step of Mistral-7B's shape: ATA", "step of Mistral-7B's shape: mean pooling"

Key = tuple[object, ...]
Kind = Literal["check", "compile", "time", "step"]
# Seconds that a task is expected to take, and after which it is given up: a start of a process included.
COSTS: dict[Kind, float] = {"check": 15.0, "compile": 20.0, "time": 3.0, "step": 75.0}
LIMITS: dict[Kind, float] = {"check": 120.0, "compile": 120.0, "time": 60.0, "step": 180.0}
FLEX_COST = 20.0  # it compiles for every shape


class Task(NamedTuple):
    """One thing to be done, and never half of it: a process does it and may be stopped.

    Attributes:
        kind: check: ours against a reference. compile: the first calls of a contender, so that what they
            compile is in Triton's cache. time: a contender, forward and backward. step: a training step with
            ATA against one with mean pooling.
        what: the contender's `Contender.what`.
    """

    kind: Kind
    case: Case
    what: str

    @property
    def cost_s(self) -> float:
        """Seconds that it should take: with less than that left it is not begun."""
        return FLEX_COST if self.what == contenders.FLEX.what and self.kind == "time" else COSTS[self.kind]

    @property
    def limit_s(self) -> float:
        """Seconds after which it is given up."""
        return LIMITS[self.kind]

    def row(self, note: str) -> Row:
        """What to say of it if it did not end."""
        return row_of(self.case, self.what, "forward" if self.kind == "time" else self.kind, note)

    def is_done(self, rows: Collection[Row]) -> bool:
        """Whether the rows of an earlier run hold all of it; not what was stopped for lack of time."""
        mine = self.key
        here = [row for row in rows if key_of(row) == mine and not row.note.startswith(OUT_OF_TIME)]
        if self.kind != "time" or any(row.ms is None for row in here):
            return bool(here)
        backward = contenders.BY_WHAT[self.what].backward_work
        directions = {"forward"} if backward is None else {"forward", "backward"}
        return directions <= {row.direction for row in here}

    @property
    def key(self) -> Key:
        """What its rows have in common, and no other task's: `key_of` of each."""
        return key_of(self.row(""))


def key_of(row: Row) -> Key:
    """The key of the task that a row is of: forward and backward are timed by one."""
    return row._replace(direction="forward" if row.direction == "backward" else row.direction)[:10]


OUT_OF_TIME = "stopped: the time is up"


class Agenda(NamedTuple):
    """`checks` may be done several at once, `timings` only one after another."""

    checks: list[Task]
    timings: list[Task]


def agenda(
    *,
    dims: Collection[int] | None = None,
    lengths: Collection[int] | None = None,
    without: Collection[str] = (),
) -> Agenda:
    """Everything, in order; or of the checks those with head dimensions `dims`, and of the measurements those
    with `lengths` of their sequences too (padded ones), and none of the contenders named in `without`.
    """

    def wanted(task: Task) -> bool:
        case = task.case
        right_dim = dims is None or case.d in dims or task.kind == "step"
        if task.kind in ("check", "step"):
            return right_dim
        right_length = lengths is None or case.layout == "packed" or case.n in lengths
        return right_dim and right_length and contenders.BY_WHAT[task.what].name not in without

    main = list(main_cases())
    ours = contenders.OUR_SUMS.what
    first, rest = check_cases()
    checks = [Task("check", case, ours) for case in first]
    checks += [
        Task("compile", case, one.what) for case in main for one in (contenders.OUR_SUMS, contenders.OUR_OUT)
    ]
    checks += [Task("check", case, ours) for case in rest]

    half = 4 * len(MAIN_DIMS)
    timings = [*_timed(main[:half], _quick), Task("step", step_case(), STEP_ATA)]
    timings += _timed(main[half:], _quick)
    timings += _timed(main, lambda case: [one for one in _all(case) if one not in _quick(case)])
    timings += [task for task in _timed(further_cases(), _all) if task.case not in main]
    return Agenda([task for task in checks if wanted(task)], [task for task in timings if wanted(task)])


def check_cases() -> tuple[list[Case], list[Case]]:
    """Every kernel of the tables in half precision; first those of the main head dimensions in bfloat16.

    No length is a multiple of a tile; long ones fill several tiles, short ones fit the fused kernel.
    """
    others = [d for d in tiles.HEAD_DIMS if d not in MAIN_DIMS]
    bfloat16, float16 = HALF
    first = _interleaved(_checked(d, bfloat16) for d in MAIN_DIMS)
    rest = [*_interleaved(_checked(d, float16) for d in MAIN_DIMS)]
    rest += _interleaved(_checked(d, dtype) for dtype in (bfloat16, float16) for d in others)
    return list(first), rest


def _checked(d: int, dtype: torch.dtype) -> Iterator[Case]:
    """The kernels' variants: how the batch lies, and which keys a query sees."""
    layouts: list[tuple[Layout, Heads, Callable[[int], tuple[int, ...]]]] = [
        ("padded", (2, 2), lambda n: (n, n)),
        ("packed", (4, 2), lambda n: (n, 0, 1, 17, n // 2)),
        ("padded", (4, 1), lambda n: (n, 0, n // 3)),  # with a mask of what is padding
    ]
    masks = [(False, None), (True, None), (False, (70, 30))]
    for (causal, window), (layout, heads, of) in itertools.product(masks, layouts):
        yield Case(layout, of(300), *heads, d, dtype, causal, window)
    for causal, window in masks:
        yield Case("padded", (300, 0, 100), 4, 1, d, dtype, causal, window, holes=True)
    # Long enough for a loop over whole steps to come round to the memory that it began with.
    wide = [(False, None), (True, None), (False, (500, 400))]
    for (causal, window), (layout, heads, of) in itertools.product(wide, layouts):
        yield Case(layout, of(900), *heads, d, dtype, causal, window)
    for keys, causal in itertools.product((64, 128, 256), (False, True)):
        for layout, heads, of in layouts:
            yield Case(layout, of(keys - 5), *heads, d, dtype, causal)


def main_cases() -> Iterator[Case]:
    """The measurements that decide: padded, packed, causal, grouped heads, long and short."""
    equal, grouped = (16, 16), (32, 8)
    packed = packed_lengths(TOKENS)
    batches: list[tuple[Layout, tuple[int, ...], Heads, bool]] = [
        ("padded", padded_lengths(4096, TOKENS), equal, False),
        ("packed", packed, grouped, False),
        ("padded", padded_lengths(4096, TOKENS), equal, True),
        ("packed", packed, grouped, True),
        ("padded", padded_lengths(512, TOKENS), grouped, False),
        ("padded", padded_lengths(128, TOKENS), equal, False),
        ("padded", padded_lengths(1024, TOKENS), equal, False),
        ("padded", padded_lengths(1024, TOKENS), grouped, True),
        ("padded", padded_lengths(256, TOKENS), equal, False),
        ("padded", padded_lengths(64, TOKENS), equal, False),
    ]
    for (layout, lengths, heads, causal), d in itertools.product(batches, MAIN_DIMS):
        yield Case(layout, lengths, *heads, d, torch.bfloat16, causal)


def further_cases() -> Iterator[Case]:
    """All combinations, for who has hours."""
    return cases.all_cases(
        layouts=("padded", "packed"),
        lengths=[2**i for i in range(6, 16)],
        tokens=TOKENS,
        dims=MAIN_DIMS,
        heads=((16, 16), (32, 8)),
        dtypes=HALF,
        masks=("full", "causal"),
    )


def step_case() -> Case:
    """The batch of `benchmarks.step`: texts of up to STEP_LONGEST tokens, and Mistral-7B's attention."""
    lengths = realistic_lengths(STEP_TEXTS, longest=STEP_LONGEST)
    return Case("packed", lengths, 32, 8, 128, torch.bfloat16, causal=False)


def _timed(chosen: Iterable[Case], contenders_of: Callable[[Case], list[Contender]]) -> list[Task]:
    return [Task("time", case, one.what) for case in chosen for one in contenders_of(case)]


def _all(case: Case) -> list[Contender]:
    """Who can take part in a case, as far as its shape tells, ours first."""
    packed = [contenders.VARLEN, contenders.FLASH_ATTN_3, contenders.FLASH_ATTN, contenders.FLEX]
    peers = packed if case.layout == "packed" else [p for p in contenders.PEERS if p is not contenders.VARLEN]
    short = case.n <= contenders.LONGEST_FUSED
    both = (contenders.OUR_ONE_PASS, contenders.OUR_TWO_PASSES)
    return [one for one in contenders.OURS if short or one not in both] + peers


def _quick(case: Case) -> list[Contender]:
    """Without those that take long and are known to be slow."""
    return [one for one in _all(case) if one not in (contenders.FLEX, contenders.EAGER)]


def _interleaved(series: Iterable[Iterable[Case]]) -> Iterator[Case]:
    """The first of each, the second of each, …; all are of one length."""
    return itertools.chain.from_iterable(zip(*series, strict=True))
