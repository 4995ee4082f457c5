"""Our kernels against their peers on a GPU: every contender in every case."""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import environment, floors, page, summary, timing
from benchmarks.cases import Case, Inputs, make_inputs
from benchmarks.contenders import OURS, Absent, Calls, Contender
from benchmarks.floors import Chip, Work
from benchmarks.table import Row
from benchmarks.timing import Clock, Timing
from mgh_ds.common.charts.figure import Panel

ABOUT = (
    "Medians of repeated calls with a cold L2 cache, timed by CUDA events while the host is ahead. TFLOP/s "
    "count 4·d FLOP a pair of query and key forward and 10·d backward, pairs hidden by a causal mask left "
    "out, column sums apart. Ratios are of milliseconds, case by case; `worst` is over all cases."
)


def run(
    path: Path,
    device: torch.device,
    cases: Sequence[Case],
    chosen: Sequence[Contender],
    chip: Chip | None,
    clock: Clock,
) -> int:
    """Measures every contender in every case and publishes what there is after each case.

    Returns the exit status: 1 if one of our own kernels failed.
    """
    rows: list[Row] = []
    failed: list[Row] = []
    described = environment.describe(device)
    bar = tqdm(total=len(cases) * len(chosen), unit="kernel")
    for case in cases:
        inputs = make_inputs(case, device)
        for contender in chosen:
            bar.set_postfix_str(f"n = {case.n}, d = {case.d}, {contender.what}")
            found = list(measure(contender, case, inputs, clock, chip))
            timing.free_gpu()
            rows += found
            failed += [row for row in found if contender in OURS and row.note.startswith("failed")]
            bar.update()
        verdicts = summary.verdicts(rows)
        page.publish(path, "Attention on a GPU", ABOUT, described, rows, verdicts, panels(rows))
    bar.close()
    print(page.text(verdicts))
    for row in failed:
        print(f"error: {row.what}, {row.direction}, d = {row.d}, n = {row.n}: {row.note}", file=sys.stderr)
    return int(bool(failed))


def measure(
    contender: Contender, case: Case, inputs: Inputs, clock: Clock, chip: Chip | None
) -> Iterator[Row]:
    """A row forward and, if it has a gradient, one backward; what cannot be measured is a row with a note."""
    direction = "forward"
    try:
        calls = contender.prepare(case, inputs)
        yield _forward_row(contender, calls, case, clock, chip)
        direction = "backward"
        if calls.backward is not None:
            yield _backward_row(contender, calls, case, clock, chip)
    except Absent as reason:
        yield _row(contender, case, direction, note=f"absent: {reason}")
    except torch.OutOfMemoryError:
        yield _row(contender, case, direction, note="out of memory")
    except torch.AcceleratorError:
        raise  # the device is lost to this process: whatever came next would fail with it
    except Exception as error:
        yield _row(contender, case, direction, note=f"failed: {_one_line(error)}")


def _forward_row(contender: Contender, calls: Calls, case: Case, clock: Clock, chip: Chip | None) -> Row:
    time, peak_mib = clock.time(calls.forward), clock.peak_mib(calls.forward)
    row = _row(contender, case, "forward", calls.note)._replace(
        peak_mib=peak_mib,
        tflops=_tflops(case, floors.FORWARD_PRODUCTS, time) if "out" in contender.gives else None,
        column_tflops=_tflops(case, floors.COLUMN_PRODUCTS, time) if "column" in contender.gives else None,
    )
    return _timed(row, case, time, calls.work or contender.work, chip)


def _backward_row(contender: Contender, calls: Calls, case: Case, clock: Clock, chip: Chip | None) -> Row:
    trained, backward = calls.trained, calls.backward
    assert trained is not None
    assert backward is not None
    call = partial(backward, trained())
    time = clock.time(call)
    del call  # and with it what the forward pass kept: it shall not hide in the peak
    row = _row(contender, case, "backward", calls.note)._replace(
        peak_mib=clock.peak_mib(lambda: backward(trained())),
        tflops=_tflops(case, floors.BACKWARD_PRODUCTS, time),
    )
    return _timed(row, case, time, contender.backward_work, chip)


def _timed(row: Row, case: Case, time: Timing, work: Work | None, chip: Chip | None) -> Row:
    share = None if chip is None or work is None else floors.floor_ms(case, work, chip) / time.ms
    return row._replace(ms=time.ms, host_us=time.host_us, floor_share=share)


def _tflops(case: Case, products: int, time: Timing) -> float:
    return floors.flops(case, products) / time.ms / 1e9


def _row(contender: Contender, case: Case, direction: str, note: str) -> Row:
    return Row(
        layout=case.layout,
        mask=case.mask,
        dtype=str(case.dtype).removeprefix("torch."),
        d=case.d,
        heads=f"{case.heads}/{case.kv_heads}",
        n=case.n,
        sequences=len(case.lengths),
        tokens=case.tokens,
        direction=direction,
        what=contender.what,
        note=note,
    )


def panels(rows: Sequence[Row]) -> list[Panel]:
    """TFLOP/s over n, padded, full mask, the first dtype and heads; a panel each direction and dimension."""
    first = rows[0]
    shown = [
        row
        for row in rows
        if (row.layout, row.mask, row.dtype, row.heads) == ("padded", "full", first.dtype, first.heads)
        and row.tflops
    ]
    result = []
    for d in sorted({row.d for row in shown}):
        for direction in ("forward", "backward"):
            lines: dict[str, list[tuple[float, float]]] = {}
            for row in shown:
                if (row.d, row.direction) == (d, direction) and row.tflops is not None:
                    lines.setdefault(row.what, []).append((row.n, row.tflops))
            title = f"{direction}, d = {d}, {first.dtype}, {first.heads} heads"
            result.append(Panel(title, "n", "TFLOP/s", lines))
    return result


def _one_line(error: Exception) -> str:
    """The error's kind and its first line, which names the reason; the rest is often a trace."""
    text = " ".join(str(error).split("\n", 1)[0].split())
    return f"{type(error).__name__}: {text[:200]}"
