"""Times of the collectives of a step, between processes on this machine that talk over gloo.

Imported by every process that is started, so it must stay light.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from benchmarks.scaling_costs import Sample
from mgh_ds.training.gather import gather, gather_with_gradient

TIMEOUT = timedelta(minutes=2)
FLOAT = 4  # bytes


def measure(ranks: int, sizes: Sequence[int], repetitions: int) -> Iterator[Sample]:
    """A sample of every collective and size, as they come. Sizes are in bytes: whole floats a rank."""
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (ranks, Path(folder) / "meeting", tuple(sizes), repetitions, queue)
        group = torch.multiprocessing.spawn(_rank, arguments, nprocs=ranks, join=False)
        done = False
        try:
            while not done:
                done = group.join(timeout=0.1)  # raises what a rank raised
                while not queue.empty():
                    yield Sample(*queue.get())
        finally:
            for process in group.processes:
                process.kill()


def _rank(rank: int, ranks: int, meeting: Path, sizes: Sequence[int], repetitions: int, queue: Any) -> None:
    torch.set_num_threads(1)  # the processes share the cores
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks, timeout=TIMEOUT
    )
    for size in sizes:
        for name, prepare in COLLECTIVES.items():
            seconds = _slowest_rank(prepare, size // FLOAT, ranks, repetitions)
            if rank == 0:
                sample = Sample(name, ranks, size, statistics.median(seconds), repetitions)
                queue.put(tuple(sample))
    dist.destroy_process_group()


def _slowest_rank(
    prepare: Callable[[int, int], Callable[[], Any]], floats: int, ranks: int, repetitions: int
) -> list[float]:
    """Seconds of each repetition, on the rank that took longest; the first two are not counted."""
    seconds = torch.zeros(repetitions + 2, dtype=torch.float64)
    for i in range(len(seconds)):
        collective = prepare(floats, ranks)
        dist.barrier()
        started = time.perf_counter()
        collective()
        seconds[i] = time.perf_counter() - started
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    return seconds[2:].tolist()


def _all_gather(floats: int, ranks: int) -> Callable[[], Any]:
    """Embeddings in the forward pass, and updated weights."""
    local = torch.ones(floats // ranks)
    return lambda: gather(local, dist.group.WORLD)


def _reduce_scatter(floats: int, ranks: int) -> Callable[[], Any]:
    """The gather's backward pass."""
    everyone = gather_with_gradient(torch.ones(floats // ranks, requires_grad=True), dist.group.WORLD)
    gradient = torch.ones(floats)
    return lambda: everyone.backward(gradient)


def _all_reduce(floats: int, _ranks: int) -> Callable[[], Any]:
    """Gradients under ZeRO-2, and flags."""
    vector = torch.ones(floats)
    return lambda: dist.all_reduce(vector)


def _broadcast(floats: int, _ranks: int) -> Callable[[], Any]:
    """Weights at the start."""
    vector = torch.ones(floats)
    return lambda: dist.broadcast(vector, src=0)


COLLECTIVES = {
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "all_reduce": _all_reduce,
    "broadcast": _broadcast,
}
