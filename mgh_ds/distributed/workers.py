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


def _of_environment(environment: Mapping[str, str]) -> Worker:
    def read(name: str, default: int) -> int:
        try:
            return int(environment.get(name, default))
        except ValueError:
            raise MghError(f"{name} is {environment[name]!r}, which is no number") from None

    tasks = read("SLURM_ARRAY_TASK_COUNT", 1)
    task = read("SLURM_ARRAY_TASK_ID", 0) - read("SLURM_ARRAY_TASK_MIN", 0) if tasks > 1 else 0
    if not 0 <= task < tasks:
        raise MghError("the SLURM array has gaps: give one like --array=0-7")
    ranks = read("SLURM_STEP_NUM_TASKS", 1)
    # A batch script has SLURM_PROCID too, but is no step of several tasks.
    rank, size = (read("SLURM_PROCID", 0), ranks) if ranks > 1 else (read("RANK", 0), read("WORLD_SIZE", 1))
    if not 0 <= rank < size:
        raise MghError(f"RANK is {rank}, but WORLD_SIZE is {size}")
    return Worker(task * size + rank, tasks * size)
