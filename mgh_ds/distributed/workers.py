"""Which one of several workers this process is; they share files and never speak to each other."""

from collections.abc import Mapping
from dataclasses import dataclass

from mgh_ds.common.errors import MghError


@dataclass(frozen=True)
class Worker:
    """A worker's number, from 0, of so many."""

    number: int = 0
    count: int = 1


def this_worker(number: int | None, count: int | None, environment: Mapping[str, str]) -> Worker:
    """The worker that is asked for; where nothing is asked for, the one that the environment names: the ranks
    of `srun` or of a launcher (RANK, WORLD_SIZE), in each task of a SLURM array.

    Raises MghError for a number without a count or beyond it, and for an array with gaps.
    """
    if number is None and count is None:
        return _of_environment(environment)
    if number is None or count is None:
        raise MghError("--worker and --workers belong together: give both, or neither")
    if not 0 <= number < count:
        raise MghError(f"--worker is {number}: of {count} workers they are 0 to {count - 1}")
    return Worker(number, count)


def take_gpu(environment: Mapping[str, str]) -> None:
    """Where this machine shows several GPUs, makes `cuda` mean one of them: that of this worker's place among
    the machine's tasks of `srun` or ranks of a launcher (LOCAL_RANK). Two workers share one if there are more
    workers than GPUs.

    Raises MghError for a place that is no number.
    """
    import torch

    name = "SLURM_LOCALID" if _is_task(environment) else "LOCAL_RANK"
    gpus = torch.cuda.device_count()
    if gpus > 1 and name in environment:
        torch.cuda.set_device(_number(environment, name, 0) % gpus)


def _of_environment(environment: Mapping[str, str]) -> Worker:
    tasks = _number(environment, "SLURM_ARRAY_TASK_COUNT", 1)
    first = _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
    task = _number(environment, "SLURM_ARRAY_TASK_ID", 0) - first if tasks > 1 else 0
    if not 0 <= task < tasks:
        raise MghError("the SLURM array has gaps: give one like --array=0-7")
    place, all_of_them = (
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS") if _is_task(environment) else ("RANK", "WORLD_SIZE")
    )
    rank, size = _number(environment, place, 0), _number(environment, all_of_them, 1)
    if not 0 <= rank < size:
        raise MghError(f"{place} is {rank}, but {all_of_them} is {size}")
    return Worker(task * size + rank, tasks * size)


def _is_task(environment: Mapping[str, str]) -> bool:
    """Whether `srun` started this process beside others. A batch script has SLURM_PROCID too, but is no step
    of several tasks."""
    return _number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(environment.get(name, default))
    except ValueError:
        raise MghError(f"{name} is {environment[name]!r}, which is no number") from None
