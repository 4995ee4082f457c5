"""Ratios between measurements of one run, and whether they are what was aimed at."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from ata_attention.gpu.tiles import FUSED_MAX_SEQLEN

from benchmarks import contenders
from benchmarks.agenda import OUT_OF_TIME
from benchmarks.contenders import Contender
from benchmarks.table import Row

Key = tuple[str, str, str, int, str, int, str]
Milliseconds = dict[tuple[Key, str], float]


# At d = 64 the exponentials bound a forward pass that overlaps them with its products, and 1.06 a pair in its
# first pass and 1 in the second are 1.94 times the first alone: see docs/kernels.md.
OVERLAPPED = 1.94
# What ATA may cost a training step, in per cent of one with mean pooling.
STEP_PERCENT = 1.0


class Ratio(NamedTuple):
    """`over` / `under` in milliseconds, case by case, where `least <= n <= most` and `d` is the given one.

    Of several contenders the fastest that was measured in the case counts; the verdict says how many were.
    A case without any of `requires` is left out: what is known to be slow is no measure alone.
    """

    what: str
    over: tuple[Contender, ...]
    under: tuple[Contender, ...]
    direction: str = "forward"
    at_most: float | None = None
    at_least: float | None = None
    d: int | None = None
    least: int = 0
    most: float = math.inf
    requires: tuple[Contender, ...] = ()


class Verdict(NamedTuple):
    """A ratio over all its cases. `worst` is the largest, where the target is an "at least" the smallest;
    `met` says in how many cases the target was met, and is None without one."""

    what: str
    target: str
    cases: int
    median: float | None
    worst: float | None
    met: int | None


def targets() -> list[Ratio]:
    """What the kernels are to reach, and below it how they compare with each peer, without a target."""
    ours, sums, second = (contenders.OUR_OUT,), (contenders.OUR_SUMS,), (contenders.OUR_COLUMN_SUMS,)
    fast, colreduce = (contenders.SDPA_CUDNN, contenders.FLASH_ATTN_3), (contenders.COLREDUCE,)
    quick = (contenders.SDPA_FLASH, contenders.SDPA_CUDNN, contenders.VARLEN)
    text = "forward with column sums / plain forward"
    long = FUSED_MAX_SEQLEN + 1
    aims = [
        Ratio(
            f"{text} of cuDNN or FA3, d = 64, n ≥ {long}", sums, fast, at_most=OVERLAPPED, d=64, least=long
        ),
        Ratio(f"{text}, d = 64, n ≥ {long}", sums, ours, d=64, least=long),
        Ratio(f"{text}, d = 128, n ≥ {long}", sums, ours, at_most=1.67, d=128, least=long),
        Ratio(f"{text}, n ≤ {FUSED_MAX_SEQLEN}", sums, ours, at_most=1.1, most=FUSED_MAX_SEQLEN),
        Ratio("backward with column sums / plain backward", sums, ours, "backward", at_most=1.25),
        *(
            Ratio(
                f"the best of torch / our plain {direction}",
                contenders.OF_TORCH,
                ours,
                direction,
                at_least=0.8,
                requires=quick,
            )
            for direction in ("forward", "backward")
        ),
        Ratio("flash-colreduce / our second pass, given lse", colreduce, second, at_least=2.0),
        Ratio("flash-colreduce / our forward with column sums", colreduce, sums, at_least=2.0),
    ]
    passes = (contenders.OUR_ONE_PASS,), (contenders.OUR_TWO_PASSES,)
    lengths = [2**i for i in range(6, 9)]  # the fused kernel has tiles for all but the last
    aims += [Ratio(f"one pass / two passes, n = {n}", *passes, least=n, most=n) for n in lengths]
    peers = [peer for peer in contenders.PEERS if peer.gives == "out"]
    return aims + [
        Ratio(f"our plain {direction} / {peer.name}", ours, (peer,), direction)
        for direction in ("forward", "backward")
        for peer in peers
    ]


def verdicts(rows: Iterable[Row]) -> list[Verdict]:
    """Whether the kernels are right, every ratio, the training step, and the growth of memory."""
    rows = list(rows)
    times = {(_key(row), row.what): row.ms for row in rows if row.ms is not None}
    growths = [memory_growth(rows, what) for what in (contenders.OUR_SUMS.what, contenders.EAGER.what)]
    step = "step of Mistral-7B's shape, ATA / mean pooling"
    return [
        judged("checks on the device: error / what is allowed", _ratios(rows, "check"), at_most=1.0),
        *(verdict(ratio, times) for ratio in targets()),
        judged(step, _ratios(rows, "step"), at_most=1 + STEP_PERCENT / 100),
        *growths,
    ]


def _ratios(rows: Iterable[Row], direction: str) -> list[float]:
    """Of a check without one, inf, unless time did not suffice: it did not show that it is right."""
    ratios = []
    for row in rows:
        if row.direction == direction:
            if row.ratio is not None:
                ratios.append(row.ratio)
            elif direction == "check" and not row.note.startswith(OUT_OF_TIME):
                ratios.append(math.inf)
    return ratios


def verdict(ratio: Ratio, times: Milliseconds) -> Verdict:
    """One ratio over the cases in which both sides were measured, and how many of several peers were."""
    values: list[float] = []
    measured: list[int] = []
    for key in dict.fromkeys(key for key, _ in times):
        *_, d, _heads, n, direction = key
        if ratio.least <= n <= ratio.most and ratio.d in (None, d) and direction == ratio.direction:
            over, under = (
                [times[key, one.what] for one in side if (key, one.what) in times]
                for side in (ratio.over, ratio.under)
            )
            enough = not ratio.requires or any((key, one.what) in times for one in ratio.requires)
            if over and under and enough:
                values.append(min(over) / min(under))
                measured.append(max(len(over), len(under)))
    what, peers = ratio.what, max(len(ratio.over), len(ratio.under))
    if peers > 1 and measured:
        least, most = min(measured), max(measured)
        what += f" ({least if least == most else f'{least} to {most}'} of {peers} measured)"
    return judged(what, values, at_most=ratio.at_most, at_least=ratio.at_least)


def judged(
    what: str, values: Sequence[float], *, at_most: float | None = None, at_least: float | None = None
) -> Verdict:
    if not values:
        return Verdict(what, _target(at_most, at_least), 0, None, None, None)
    met = None
    if at_most is not None:
        met = sum(value <= at_most for value in values)
    elif at_least is not None:
        met = sum(value >= at_least for value in values)
    worst = max(values) if at_least is None else min(values)
    return Verdict(what, _target(at_most, at_least), len(values), statistics.median(values), worst, met)


def memory_growth(rows: Iterable[Row], what: str) -> Verdict:
    """The exponent x with which a training step's peak memory grows as n^x at a fixed number of sequences.

    The batches measured hold about the same number of tokens each, so that x is one more than the slope of
    log(memory / token) over log(n). Short sequences are left out: there the batch outweighs everything.
    """
    by_size: dict[tuple[object, ...], list[tuple[int, float]]] = {}
    for row in rows:
        if row.what == what and row.peak_mib and row.direction == "backward" and row.layout == "padded":
            points = by_size.setdefault((row.mask, row.dtype, row.d, row.heads), [])
            if row.n > FUSED_MAX_SEQLEN:
                points.append((row.n, row.peak_mib / row.tokens))
    values = [1 + slope(points) for points in by_size.values() if len(points) > 1]
    ours = what == contenders.OUR_SUMS.what
    return judged(f"peak memory ~ n^x, {what}", values, at_most=1.05 if ours else None)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line through the logarithms, by least squares."""
    x, y = np.log(np.asarray(points, dtype=np.float64)).T
    return float(np.polyfit(x, y, 1)[0])


def _key(row: Row) -> Key:
    return row.layout, row.mask, row.dtype, row.d, row.heads, row.n, row.direction


def _target(at_most: float | None, at_least: float | None) -> str:
    if at_most is not None:
        return f"≤ {at_most:g}"
    return "" if at_least is None else f"≥ {at_least:g}"
