"""From SLURM's variables to the ranks', and from codes to what the batch scripts do. On a real SLURM:
tests/system/test_slurm.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.distributed.slurm import rank_variables, tasks_on_nodes

STEP = {
    "SLURM_STEP_NUM_TASKS": "20",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2),4",
    "SLURM_PROCID": "17",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "20001",
}


def test_a_task_of_a_step_knows_its_rank() -> None:
    assert rank_variables(STEP) == {"RANK": "17", "WORLD_SIZE": "20", "LOCAL_RANK": "1", "LOCAL_SIZE": "4"}


def test_what_srun_did_not_start_in_numbers_is_left_alone() -> None:
    batch_script = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "20", "SLURM_NODEID": "0"}
    assert rank_variables({}) == rank_variables(batch_script) == {}
    assert rank_variables(STEP | {"SLURM_STEP_NUM_TASKS": "1"}) == {}


@pytest.mark.parametrize("lacking", ["MASTER_ADDR", "MASTER_PORT"])
def test_ranks_that_cannot_find_each_other_are_told(lacking: str) -> None:
    environment = {name: value for name, value in STEP.items() if name != lacking}
    with pytest.raises(MghError, match=r"srun started 20 tasks.*train\.sbatch, or export MASTER_ADDR"):
        rank_variables(environment)


def test_the_list_of_tasks_is_read() -> None:
    assert tasks_on_nodes("8") == [8]
    assert tasks_on_nodes("2(x3),1,4(x2)") == [2, 2, 2, 1, 4, 4]
    with pytest.raises(MghError, match=r"which is not like 8\(x2\),4"):
        tasks_on_nodes("8x2")


SRUN = '#!/bin/sh\necho "srun $*" >> "$CALLS"\nexit "$CODE"\n'
SCONTROL = (
    '#!/bin/sh\necho "scontrol $*" >> "$CALLS"\n[ "$1" = requeue ] || echo "   JobState=$STATE Reason=None"\n'
)
TRAIN = ["launch/slurm/train.sbatch", "configs/tiny-mistral.yaml", "--training.steps", "3"]
EVALUATE = [
    "launch/slurm/evaluate.sbatch",
    "model",
    "nowhere",
    "STS17",
    "SICK-R",
    "SciFact",
    "--pooling",
    "mean",
]


def batch(folder: Path, *words: str, **variables: str) -> tuple[int, list[str], str]:
    """A batch script's code, what it asked of a stand-in for SLURM, and what it printed."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    calls = folder / "calls"
    calls.write_text("")
    job = {"SLURM_JOB_ID": "12345", "CALLS": str(calls), "STATE": "RUNNING", "MGH_DS_PYTHON": sys.executable}
    path = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", *words], env=os.environ | path | job | variables, text=True, capture_output=True, check=False
    )
    return done.returncode, calls.read_text().splitlines(), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "restarts", "requeued", "ends_with"),
    [
        (0, 0, False, 0),
        (1, 0, False, 1),
        (2, 0, False, 2),
        (127, 0, False, 127),
        (75, 0, True, 75),
        (75, 99, True, 75),
        (76, 0, True, 76),
        (76, 19, True, 76),
        (76, 20, False, 1),
        (137, 0, True, 137),
        (143, 0, True, 143),
        (143, 20, False, 1),
    ],
)
def test_the_code_of_a_run_decides_what_becomes_of_the_job(
    tmp_path: Path, code: int, restarts: int, requeued: bool, ends_with: int
) -> None:
    variables = {"CODE": str(code), "SLURM_RESTART_COUNT": str(restarts)}
    ended, calls, _ = batch(tmp_path, *TRAIN, **variables)
    assert ended == ends_with
    assert ("scontrol requeue 12345" in calls) == requeued
    # Cancelled, or requeued by SLURM itself: not ours to put back.
    _, calls, _ = batch(tmp_path, *TRAIN, **variables, STATE="COMPLETING")
    assert "scontrol requeue 12345" not in calls


def test_the_environment_reaches_srun(tmp_path: Path) -> None:
    variables = {"MGH_DS_SRUN_ARGS": "--mpi=none --container-image=x", "MGH_DS_LOCAL": "$TMPDIR/shards"}
    _, (call,), _ = batch(tmp_path, *TRAIN, **variables, CODE="0")
    assert call == (
        f"srun --kill-on-bad-exit=0 --mpi=none --container-image=x {sys.executable} -m mgh_ds.train "
        "--config configs/tiny-mistral.yaml --data.shards $TMPDIR/shards --training.steps 3"
    )


def test_a_recipe_may_be_named(tmp_path: Path) -> None:
    _, (call,), _ = batch(tmp_path, TRAIN[0], "tiny-mistral", CODE="0")
    assert call.endswith(f"{sys.executable} -m mgh_ds.train --config tiny-mistral")


@pytest.mark.parametrize(("task", "names"), [(0, "STS17 SciFact"), (1, "SICK-R")])
def test_an_array_task_takes_its_share_and_goes_on_after_preemption(
    tmp_path: Path, task: int, names: str
) -> None:
    numbers = {"ID": str(task + 3), "MIN": "3", "COUNT": "2"}
    array = {f"SLURM_ARRAY_TASK_{name}": number for name, number in numbers.items()}
    for code, requeued in (("0", False), ("1", False), ("143", True)):
        ended, (call, *others), _ = batch(tmp_path, *EVALUATE, **array, CODE=code)
        assert ended == int(code)
        assert call.endswith(f" eval --model model --output nowhere --tasks {names} --pooling mean")
        assert ("scontrol requeue 12345" in others) == requeued


@pytest.mark.parametrize(
    ("words", "variables", "code", "said"),
    [
        (TRAIN[:1], {}, 1, "which config?"),
        ([*TRAIN[:1], "nowhere.yaml"], {}, 1, "there is no nowhere.yaml"),
        ([*TRAIN[:1], "configs/nowhere"], {}, 1, "there is no configs/nowhere"),
        (TRAIN, {"MGH_DS_PYTHON": "nowhere/python"}, 1, "there is no nowhere/python"),
        (EVALUATE[:3], {}, 1, "MODEL OUTPUT TASK..."),
        (EVALUATE, {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "2"}, 1, "the array has gaps"),
        (EVALUATE, {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, 0, "nothing to do"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    tmp_path: Path, words: list[str], variables: dict[str, str], code: int, said: str
) -> None:
    ended, calls, printed = batch(tmp_path, *words, **variables, CODE="0")
    assert said in printed
    assert ended == code
    assert calls == []


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_jobs_may_be_requeued(name: str) -> None:
    assert "#SBATCH --requeue" in Path(f"launch/slurm/{name}.sbatch").read_text().splitlines()
