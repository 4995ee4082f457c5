"""Walks through the agenda in the time that there is, and keeps what it finds.

Every task runs in a process at the device (`apart`) and is given up when its time is over, so that neither a
compiler that hangs nor a lost device ends the run, or makes it late. The table is written anew, in one step,
after every row: whatever cuts the run off, what was measured is there. What people read of it is drawn up now
and then (PAGE_S), and in the end.
"""

import itertools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from benchmarks import contenders, gpu, page, summary, table
from benchmarks.agenda import OUT_OF_TIME, Agenda, Task, key_of
from benchmarks.apart import one_line
from benchmarks.table import Row

# Checks and compilation get this share of the time, if they need it; the measurements get what is left.
CHECKS_SHARE = 0.4
# Seconds for what is outside the tasks: imports before, the last files after.
MARGIN_S = 15.0
# Seconds from page to page.
PAGE_S = 20.0
ABOUT = (
    "Medians of repeated calls with a cold L2 cache, timed by CUDA events while the host is ahead; ours "
    "through operator and autograd, as a model calls it. TFLOP/s count 4·d FLOP a pair of query and key "
    "forward and 10·d backward, pairs hidden by a causal mask left out, column sums apart. First calls, in "
    "which kernels are compiled, stand in `first_s` and in no other figure. Ratios are of milliseconds, case "
    "by case; `worst` is over all cases. Checks compare with fp64: an error may be twice that of PyTorch's "
    "own attention in the same dtype."
)
HUNG = "failed: it was given up, as something that hangs"
# One of ours that was stopped after so many times its expected seconds hangs, and did not just lack time.
HUNG_AFTER = 3
LEFT_OUT = "left out: it hung in another case"
OURS = frozenset(contender.what for contender in contenders.OURS)


class Worker(Protocol):
    """Does tasks, one after another; see `apart.Apart`."""

    def __call__(self, task: Task, limit_s: float, /) -> Iterator[Row]: ...

    def close(self) -> None: ...


class Book:
    """The rows so far, and their files."""

    def __init__(self, path: Path, described: Mapping[str, str], rows: Iterable[Row]) -> None:
        self.path, self.described, self.rows = path, dict(described), list(rows)
        self._page_at = -math.inf

    def add(self, row: Row, now: float) -> None:
        """Keeps a row that was found at `now`, in seconds of any clock."""
        self.rows.append(row)
        print(line(row), flush=True)
        if now < self._page_at + PAGE_S:
            self._write()
        else:
            self._page_at = now
            self.publish()

    def publish(self) -> None:
        """Writes the table, the page and the plot. Without the latter two the run goes on."""
        self._write()
        try:
            verdicts, panels = summary.verdicts(self.rows), gpu.panels(self.rows)
            page.draw(self.path, "Attention on a GPU", ABOUT, self.described, verdicts, panels)
        except Exception as error:
            print(f"page and plot of {self.path.name} were not written: {one_line(error)}", flush=True)

    def forget(self, tasks: Iterable[Task]) -> None:
        """Leaves out what is there of tasks that are done anew: half a task would count twice."""
        keys = {task.key for task in tasks}
        self.rows = [row for row in self.rows if key_of(row) not in keys]

    def _write(self) -> None:
        table.write_rows(page.csv_of(self.path), self.described, self.rows)

    def faults(self) -> list[Row]:
        """Of ours: what is wrong, failed, hung or found no memory. Lack of time is none."""
        return [
            row
            for row in self.rows
            if (row.ratio is not None and row.direction == "check" and not row.ratio <= 1)
            or (row.note.startswith("failed") and (row.what in OURS or row.direction == "step"))
            or (row.note == "out of memory" and (row.what in OURS or row.direction == "check"))
        ]


def line(row: Row) -> str:
    """A row for a terminal."""
    case = f"{row.layout}, {row.mask}, {row.dtype}, d = {row.d}, {row.heads}, n = {row.n}"
    parts = [f"{row.direction}: {row.what}, {case}"]
    if row.direction == "check" and row.ratio is not None:
        parts.append(f"{row.ratio:.3g} of what is allowed")
    if row.ms is not None:
        parts.append(f"{row.ms:.4g} ms")
    if row.first_s is not None:
        parts.append(f"first call {row.first_s:.3g} s")
    return "; ".join([*parts, row.note] if row.note else parts)


def run(
    book: Book,
    agenda: Agenda,
    make_worker: Callable[[], Worker],
    *,
    minutes: float,
    jobs: int,
    sample: Callable[[], str] = lambda: "",
    now: Callable[[], float] = time.monotonic,
) -> int:
    """Does what the agenda has, as far as the time goes, but for what the book has already.

    `jobs` processes share the checks. `sample` is called after each measured case and describes the GPU's
    clocks. Returns the exit status: 1 if one of our kernels is wrong or failed.
    """
    started, before = now(), list(book.rows)
    end = started + 60 * minutes - MARGIN_S
    phases = (
        (agenda.checks, jobs, started + CHECKS_SHARE * (end - started)),
        (agenda.timings, 1, end),
    )
    pending = [[task for task in tasks if not task.is_done(before)] for tasks, *_ in phases]
    book.forget(itertools.chain(*pending))
    for (_, count, until), todo in zip(phases, pending, strict=True):
        workers = [make_worker() for _ in range(min(count, len(todo)))]
        previous = None

        def done(task: Task) -> None:
            nonlocal previous
            if task.kind not in ("check", "compile") and task.case != previous:
                previous = task.case
                book.described["clocks"] = sample()

        _walk(todo, workers, until, book.add, done, now)
    for name, tasks in (("checks and compilations", agenda.checks), ("measurements", agenda.timings)):
        count = sum(task.is_done(book.rows) for task in tasks)
        book.described[name] = f"{count} of {len(tasks)}, as far as the time went"
    book.described["minutes"] = f"{(now() - started) / 60:.1f} of {minutes:g}"
    book.publish()
    return int(bool(book.faults()))


def _walk(
    tasks: Sequence[Task],
    workers: Sequence[Worker],
    until: float,
    add: Callable[[Row, float], None],
    done: Callable[[Task], None],
    now: Callable[[], float],
) -> None:
    """Every task that can end in time, by whichever worker is free; each row is added when it comes.

    What hung once would take the time of all others: from then on a peer is left out, one of ours where head
    dimension and mask are the same.
    """
    waiting, one_at_a_time = deque(tasks), threading.Lock()
    hung: set[tuple[object, ...]] = set()

    def serve(worker: Worker) -> None:
        while waiting:
            try:
                task = waiting.popleft()
            except IndexError:  # another was quicker
                return
            left = until - now()
            if task.cost_s > left:
                continue
            rows = iter([task.row(LEFT_OUT)]) if _kin(task) in hung else _rows(worker, task, left, now)
            for row in rows:
                if row.note.startswith(HUNG):
                    hung.add(_kin(task))
                with one_at_a_time:
                    add(row, now())
            with one_at_a_time:
                done(task)

    try:
        if len(workers) == 1:
            serve(workers[0])
        else:
            with ThreadPoolExecutor(max(1, len(workers))) as pool:
                list(pool.map(serve, workers))
    finally:
        waiting.clear()
        for worker in workers:
            worker.close()


def _kin(task: Task) -> tuple[object, ...]:
    """What tasks share that are left out together."""
    return (task.what, task.case.d, task.case.mask) if task.what in OURS else (task.what,)


def _rows(worker: Worker, task: Task, left: float, now: Callable[[], float]) -> Iterator[Row]:
    """What the worker finds, or why it found nothing."""
    begun = now()
    try:
        yield from worker(task, min(task.limit_s, left))
    except TimeoutError:
        seconds = now() - begun
        hung = left > task.limit_s or (task.what in OURS and seconds >= HUNG_AFTER * task.cost_s)
        yield task.row(f"{HUNG}, after {seconds:.0f} s" if hung else OUT_OF_TIME)
    except RuntimeError as error:
        yield task.row(f"failed: {error}")


def jobs() -> int:
    """Processes that check and compile at once: each holds a few gigabytes, and a core when it compiles."""
    return max(1, min(8, len(os.sched_getaffinity(0)) - 1))
