"""Clocks: the median time of a call, and the most memory it takes, on a GPU and on a CPU."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

MIB = 2**20
# torch.cuda._sleep counts cycles; chips run at 2 GHz or a little less.
CYCLES = 2e9


class Timing(NamedTuple):
    """Median milliseconds on the GPU, microseconds that the host took to start one call, and seconds that the
    first one took, compilation included."""

    ms: float
    host_us: float
    first_s: float = 0.0


class Clock(Protocol):
    """What measurements need of a clock."""

    def time(self, call: Callable[[], Any]) -> Timing:
        """How long a call takes."""

    def peak_mib(self, call: Callable[[], Any]) -> float:
        """The most memory that is taken during a call, over what was before it."""


class GpuClock:
    """Times calls on the current CUDA device with events.

    The device first sleeps while the host queues every call, so that the time between two events is the
    kernels' own, however slow the launch; what the launch costs the host is reported beside it. The L2 cache
    is overwritten before each call.
    """

    def __init__(self, *, budget_ms: float = 200.0, least: int = 7, most: int = 50) -> None:
        """A measurement makes `least` to `most` calls, as many as fit in `budget_ms`."""
        l2 = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self.flush = torch.empty(max(4 * l2, 64 * MIB), dtype=torch.uint8, device="cuda")
        self.budget_ms, self.least, self.most = budget_ms, least, most

    def time(self, call: Callable[[], Any]) -> Timing:
        first_s = seconds_of(call)  # compiles and chooses algorithms
        for _ in range(2):  # fills the allocator's cache
            call()
        (trial_ms,), (trial_host_s,) = self._queue(call, 1, 0.0)
        repeats = int(min(self.most, max(self.least, self.budget_ms / max(trial_ms, 1e-3))))
        device_ms, host_s = self._queue(call, repeats, repeats * (trial_host_s + 50e-6))
        return Timing(statistics.median(device_ms), 1e6 * statistics.median(host_s), first_s)

    def _queue(
        self, call: Callable[[], Any], repeats: int, head_start_s: float
    ) -> tuple[list[float], list[float]]:
        """Device milliseconds and host seconds of each of `repeats` calls."""
        marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        host_s = []
        torch.cuda.synchronize()
        if head_start_s:
            torch.cuda._sleep(int(CYCLES * head_start_s))
        for begin, end in marks:
            self.flush.zero_()
            begin.record()
            started = time.perf_counter()
            call()
            host_s.append(time.perf_counter() - started)
            end.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) for begin, end in marks], host_s

    def peak_mib(self, call: Callable[[], Any]) -> float:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB


def seconds_of(call: Callable[[], Any]) -> float:
    """Of one call, until the device is done with it."""
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def free_gpu() -> None:
    """Gives back what a failed call left behind."""
    gc.collect()
    torch.cuda.empty_cache()


def interleaved_ms(calls: Sequence[Callable[[], Any]], rounds: int, warm_up: int = 1) -> list[list[float]]:
    """Milliseconds of each call in each round, on the CPU: `[round][call]`.

    In a round every call has its turn, and in every other round in reverse order: what disturbs the machine
    for a while disturbs all of them.
    """
    for _ in range(warm_up):
        for call in calls:
            call()
    result = []
    for i in range(rounds):
        order = range(len(calls))
        times = [0.0] * len(calls)
        for j in order if i % 2 == 0 else reversed(order):
            started = time.perf_counter()
            calls[j]()
            times[j] = 1e3 * (time.perf_counter() - started)
        result.append(times)
    return result


def peak_mib_in_fresh_process(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> float:
    """The most memory that `prepare(*arguments)()` takes over what `prepare` left, in a process of its own.

    `prepare` must be a function of a module. Linux only.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_peak_mib, prepare, arguments).result()


def _peak_mib(prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> float:
    call = prepare(*arguments)
    gc.collect()
    # Sets the process's peak back to what it has now: importing may have needed more than it kept.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status_kib("VmRSS")
    call()
    return (_status_kib("VmHWM") - before) / 1024


def _status_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])
