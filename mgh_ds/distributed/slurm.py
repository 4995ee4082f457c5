"""Ranks that `srun` started: SLURM's variables in the words of torch and DeepSpeed."""

import re
from collections.abc import Mapping

from mgh_ds.common.errors import MghError


def rank_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_SIZE of a task among several of a job step; {} for any other
    process.

    A batch script has variables of the same names, but it is no step; so what only `srun` sets is asked.
    Raises MghError where nothing says how the tasks find each other.
    """
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks == 1:
        return {}
    if not {"MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        raise MghError(
            f"srun started {tasks} tasks, and nothing says where the first one listens: "
            "use launch/slurm/train.sbatch, or export MASTER_ADDR and MASTER_PORT before srun"
        )
    on_nodes = tasks_on_nodes(environment["SLURM_STEP_TASKS_PER_NODE"])
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_SIZE": str(on_nodes[int(environment["SLURM_NODEID"])]),
    }


def tasks_on_nodes(text: str) -> list[int]:
    """SLURM's list with repetitions, node by node: "8(x2),4" → [8, 8, 4]."""
    numbers = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found is None:
            raise MghError(f"SLURM_STEP_TASKS_PER_NODE is {text!r}, which is not like 8(x2),4")
        numbers += [int(found[1])] * int(found[2] or 1)
    return numbers
