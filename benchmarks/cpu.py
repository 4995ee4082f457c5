"""The portable backend against the attention matrix in memory, on a CPU: time and peak memory.

Forward and backward together, fp32, one sequence, no mask; both compute the output and the column sums.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from ata_attention import ata_attention
from torch import Tensor
from tqdm import tqdm

from benchmarks import floors, timing
from benchmarks.cases import Case, make_inputs
from benchmarks.summary import Verdict, judged
from benchmarks.table import Row
from mgh_ds.common.charts.figure import Panel

LENGTHS = tuple(2**i for i in range(6, 14))
D = 64
HEADS = 12
# At this length and beyond, eager attention with all heads would need more memory than a laptop has.
LONG, LONG_HEADS = 8192, 4
TIME_LENGTH, TIME_TARGET = 512, 1.3
MEMORY_TARGET = 1 / 20
CHUNKED, EAGER = "chunked: out + column sums", "eager: out + column sums"
ABOUT = (
    "Our portable backend (`chunked`) against eager attention, which holds the whole matrix and lets "
    "autograd differentiate it: forward and backward of one sequence, fp32, d = 64, through the output and "
    "the column sums. Times are medians of rounds in which the two take turns, ratios the medians of the "
    "rounds' ratios; memory is the peak of a fresh process over what it held before the call."
)


class Measured(NamedTuple):
    rows: list[Row]
    verdicts: list[Verdict]


def measure(
    lengths: Sequence[int] = LENGTHS, *, rounds: int = 15, budget_s: float = 40.0, quiet: bool = False
) -> Measured:
    """Time and memory at every length; a length gets as many rounds as fit in `budget_s`, three at least."""
    rows, ratios, memory = [], {}, {}
    bar = tqdm(lengths, unit="length", disable=quiet)
    for n in bar:
        bar.set_postfix_str(f"n = {n}")
        case = case_of(n)
        calls = [prepare(n, case.heads) for prepare in (chunked, eager)]
        trial = sum(timing.interleaved_ms(calls, 1)[0]) / 1e3
        count = max(3, min(rounds, int(budget_s / trial)))
        times = timing.interleaved_ms(calls, count, warm_up=0)
        del calls
        ratios[n] = statistics.median(ours / theirs for ours, theirs in times)
        peaks = [timing.peak_mib_in_fresh_process(_warm, kind, n, case.heads) for kind in (chunked, eager)]
        memory[n] = peaks[0] / peaks[1]
        note = f"{ratios[n]:.3g} times eager's time, {memory[n]:.3g} times its memory; {count} rounds"
        ours, theirs = (statistics.median(ms) for ms in zip(*times, strict=True))
        rows += [_row(case, CHUNKED, ours, peaks[0], note), _row(case, EAGER, theirs, peaks[1], "")]
    return Measured(rows, _verdicts(ratios, memory))


def case_of(n: int) -> Case:
    heads = HEADS if n < LONG else LONG_HEADS
    return Case("padded", (n,), heads, heads, D, torch.float32, causal=False)


def chunked(n: int, heads: int) -> Callable[[], Any]:
    """One forward and backward pass of the portable backend."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        result = ata_attention(q, k, v, backend="chunked")
        return result.out, result.column_sums

    return _step(attend, n, heads)


def eager(n: int, heads: int) -> Callable[[], Any]:
    """One forward and backward pass with the matrix in memory."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        weights = (q @ k.mT * D**-0.5).softmax(-1)
        return weights @ v, weights.sum(-2)

    return _step(attend, n, heads)


def _warm(prepare: Callable[[int, int], Callable[[], Any]], n: int, heads: int) -> Callable[[], Any]:
    """A pass of `prepare`, after one of another: what the libraries take when first used is not its own."""
    prepare(32, heads)()
    return prepare(n, heads)


def _step(attend: Callable[..., tuple[Tensor, Tensor]], n: int, heads: int) -> Callable[[], Any]:
    case = Case("padded", (n,), heads, heads, D, torch.float32, causal=False)
    *qkv, d_out, d_sums, _ = make_inputs(case, torch.device("cpu"))
    leaves = [x.requires_grad_() for x in qkv]
    return lambda: torch.autograd.grad(attend(*leaves), leaves, (d_out, d_sums))


def _row(case: Case, what: str, ms: float, peak_mib: float, note: str) -> Row:
    products = floors.FORWARD_PRODUCTS + floors.BACKWARD_PRODUCTS
    return Row(
        layout=case.layout,
        mask=case.mask,
        dtype="float32",
        d=case.d,
        heads=f"{case.heads}/{case.kv_heads}",
        n=case.n,
        sequences=1,
        tokens=case.tokens,
        direction="forward+backward",
        what=what,
        ms=ms,
        tflops=floors.flops(case, products) / ms / 1e9,
        peak_mib=peak_mib,
        note=note,
    )


def _verdicts(ratios: dict[int, float], memory: dict[int, float]) -> list[Verdict]:
    return [
        judged(
            f"time, n = {TIME_LENGTH}: chunked / eager",
            [ratio for n, ratio in ratios.items() if n == TIME_LENGTH],
            at_most=TIME_TARGET,
        ),
        judged("time, every n: chunked / eager", list(ratios.values())),
        judged(
            f"memory, n = {LONG}: chunked / eager",
            [ratio for n, ratio in memory.items() if n == LONG],
            at_most=MEMORY_TARGET,
        ),
    ]


def panels(rows: Sequence[Row]) -> list[Panel]:
    """Time and memory over the length."""

    def lines(figure: Callable[[Row], float | None]) -> dict[str, list[tuple[float, float]]]:
        return {
            what: [(row.n, value) for row in rows if row.what == what and (value := figure(row))]
            for what in (CHUNKED, EAGER)
        }

    title = f"d = {D}, {HEADS} heads ({LONG_HEADS} from n = {LONG} on)"
    return [
        Panel(f"Time, {title}", "n", "ms", lines(lambda row: row.ms)),
        Panel(f"Peak memory, {title}", "n", "MiB", lines(lambda row: row.peak_mib)),
    ]
