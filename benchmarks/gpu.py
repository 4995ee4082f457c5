"""Our kernels against their peers: what is done for each task of the agenda, in a process at the device."""

import functools
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from benchmarks import checks, contenders, environment, floors, timing
from benchmarks.agenda import STEP_MEAN, Task
from benchmarks.apart import one_line
from benchmarks.cases import Case, Inputs, make_inputs, row_of
from benchmarks.contenders import Absent, Calls, Contender
from benchmarks.floors import Chip, Work
from benchmarks.table import Row
from benchmarks.timing import Clock, GpuClock, Timing
from mgh_ds.common.charts.figure import Panel

# Milliseconds and calls of a measurement: half of it would do for a median, and minutes are few.
BUDGET_MS, MOST = 100.0, 30
STEP_ROUNDS, STEP_WARM_UP = 8, 2


def answer(task: Task) -> Iterator[Row]:
    """Rows of one task, on the current CUDA device."""
    device = torch.device("cuda")
    return do(task, device, _clock(), floors.chip_of(environment.device_name(device)))


@functools.cache
def _clock() -> Clock:
    return GpuClock(budget_ms=BUDGET_MS, most=MOST)


def do(task: Task, device: torch.device, clock: Clock, chip: Chip | None) -> Iterator[Row]:
    """Rows of one task. An error that only concerns it is a row; one that loses the device is raised."""
    match task.kind:
        case "time":
            yield from measure(
                contenders.BY_WHAT[task.what], task.case, _inputs(task.case, device), clock, chip
            )
        case "check":
            yield from _guarded(task.case, task.what, lambda: "check", _check(task, device))
        case "compile":
            yield from _guarded(task.case, task.what, lambda: "compile", _compile(task, device))
        case "step":
            yield from _guarded(task.case, task.what, lambda: "step", _step(task, device))
    timing.free_gpu()


_inputs = functools.lru_cache(maxsize=1)(make_inputs)


def _check(task: Task, device: torch.device) -> Iterator[Row]:
    yield checks.check(task.case, device)


def _compile(task: Task, device: torch.device) -> Iterator[Row]:
    """Seconds of a first forward and backward pass: what they compile is on the disk afterwards."""
    calls = contenders.BY_WHAT[task.what].prepare(task.case, _inputs(task.case, device))

    def first() -> None:
        calls.forward()
        if calls.trained is not None and calls.backward is not None:
            calls.backward(calls.trained())

    yield row_of(task.case, task.what, "compile")._replace(first_s=timing.seconds_of(first))


def _step(task: Task, device: torch.device) -> Iterator[Row]:
    """A training step with each of the two poolings."""
    try:  # transformers and peft are not everywhere
        from benchmarks import step

        ata, mean = step.measure(step.Sizes(), device, rounds=STEP_ROUNDS, warm_up=STEP_WARM_UP)
    except ImportError as error:
        raise Absent(f"not installed: {error}") from error
    assert ata.slower_percent is not None
    yield row_of(task.case, task.what, "step", step.described(ata))._replace(
        ms=ata.step_ms, peak_mib=ata.peak_mib, ratio=1 + ata.slower_percent / 100
    )
    yield row_of(task.case, STEP_MEAN, "step")._replace(ms=mean.step_ms, peak_mib=mean.peak_mib)


def measure(
    contender: Contender, case: Case, inputs: Inputs, clock: Clock, chip: Chip | None
) -> Iterator[Row]:
    """A row forward and, if it has a gradient, one backward; what cannot be measured is a row with a note."""
    direction = "forward"

    def rows() -> Iterator[Row]:
        nonlocal direction
        calls = contender.prepare(case, inputs)
        yield _forward_row(contender, calls, case, clock, chip)
        direction = "backward"
        if calls.backward is not None:
            yield _backward_row(contender, calls, case, clock, chip)

    return _guarded(case, contender.what, lambda: direction, rows())


def _guarded(case: Case, what: str, direction: Callable[[], str], rows: Iterator[Row]) -> Iterator[Row]:
    """`rows`, and one that says why if they break off.

    Raises when the device is lost to this process: whatever came next would fail with it.
    """
    try:
        yield from rows
    except Absent as reason:
        yield row_of(case, what, direction(), f"absent: {reason}")
    except torch.OutOfMemoryError:
        yield row_of(case, what, direction(), "out of memory")
    except torch.AcceleratorError:
        raise
    except Exception as error:
        yield row_of(case, what, direction(), f"failed: {one_line(error)}")


def _forward_row(contender: Contender, calls: Calls, case: Case, clock: Clock, chip: Chip | None) -> Row:
    time, peak_mib = clock.time(calls.forward), clock.peak_mib(calls.forward)
    row = row_of(case, contender.what, "forward", calls.note)._replace(
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
    row = row_of(case, contender.what, "backward", calls.note)._replace(
        peak_mib=clock.peak_mib(lambda: backward(trained())),
        tflops=_tflops(case, floors.BACKWARD_PRODUCTS, time),
    )
    return _timed(row, case, time, contender.backward_work, chip)


def _timed(row: Row, case: Case, time: Timing, work: Work | None, chip: Chip | None) -> Row:
    share = None if chip is None or work is None else floors.floor_ms(case, work, chip) / time.ms
    return row._replace(ms=time.ms, host_us=time.host_us, first_s=time.first_s, floor_share=share)


def _tflops(case: Case, products: int, time: Timing) -> float:
    return floors.flops(case, products) / time.ms / 1e9


def panels(rows: Sequence[Row]) -> list[Panel]:
    """TFLOP/s over n, padded, full mask, the first dtype and heads; a panel each direction and dimension."""
    timed = [row for row in rows if row.tflops]
    if not timed:
        return []
    first = timed[0]
    shown = [
        row
        for row in timed
        if (row.layout, row.mask, row.dtype, row.heads) == ("padded", "full", first.dtype, first.heads)
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
