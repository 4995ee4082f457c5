"""What a rank does in the tests of full fine-tuning: trains, and measures its memory meanwhile or dies in the
middle of writing a checkpoint."""

import ctypes
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

from mgh_ds.common import files
from mgh_ds.distributed.group import process_group, rank, world_size
from mgh_ds.distributed.signals import StopRequest
from mgh_ds.distributed.watchdog import Watchdog
from mgh_ds.training import checkpoint
from mgh_ds.training.config import RunConfig
from mgh_ds.training.run_folder import RunFolder
from mgh_ds.training.tensor_file import write_file
from mgh_ds.training.tensor_queue import TensorQueue
from mgh_ds.training.trainer import Trainer

Result = TypeVar("Result")


def train_measured(config: RunConfig, under_way: int, out: Path) -> None:
    """Trains with at most `under_way` bytes between the ranks and a disk that is not ready at once.
    Writes to OUT by how many bytes each rank grew at most while a checkpoint was restored, and while each was
    written."""

    def slow(path: Path, shapes: Mapping[str, torch.Size], take: Callable[[], torch.Tensor]) -> str:
        if path.name == checkpoint.WEIGHTS:
            time.sleep(0.7)  # enough to put all together
        return write_file(path, shapes, take)

    checkpoint.BYTES_UNDER_WAY, checkpoint.write_file = under_way, slow
    with process_group(), StopRequest() as stop, Watchdog(config.training.silence_limit_s):
        torch.set_num_threads(1)
        run = Trainer(config, RunFolder(config.path))
        resume, save = run._resume, run._save
        growth: dict[str, list[int]] = {"read": [], "written": []}

        def measured_resume() -> int:
            step, grown = growth_during(resume)
            growth["read"].append(grown)
            return step

        def measured_save(step: int) -> None:
            _, grown = growth_during(lambda: (save(step), run.writer.wait()))
            growth["written"].append(grown)

        run._resume, run._save = measured_resume, measured_save  # type: ignore[method-assign]
        run.train(stop)
        files.write_json(out / f"{rank()}-of-{world_size()}.json", growth)


def growth_during(work: Callable[[], Result]) -> tuple[Result, int]:
    """What `work` returns, and by how many bytes this process grew at most meanwhile."""
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator kept of the last step would hide a growth
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts anew
    before = resident()["VmRSS"]
    result = work()
    return result, resident()["VmHWM"] - before


def resident() -> dict[str, int]:
    """Bytes in memory, now and at the peak."""
    found = re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return {name: 1024 * int(size) for name, size in found}


def train_killed_while_writing(config: RunConfig, number: int) -> None:
    """Rank 0 is killed while its thread writes the tensor of that number, counted over all checkpoints."""
    taken = iter(range(number))

    class Deadly(TensorQueue):
        def take(self) -> torch.Tensor:
            if next(taken, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().take()

    checkpoint.TensorQueue = Deadly  # type: ignore[misc]
    with process_group(), StopRequest() as stop, Watchdog(config.training.silence_limit_s):
        torch.set_num_threads(1)
        Trainer(config, RunFolder(config.path)).train(stop)
