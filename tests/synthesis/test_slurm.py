"""launch/slurm/synthesize.sbatch as SLURM would start it, beside an srun and a scontrol that write down what
they are asked."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgh_ds.synthesis.merge import merge
from mgh_ds.synthesis.plan import SynthesisPlan, freeze_plan, open_plan
from mgh_ds.synthesis.status import read_status

SCRIPT = Path("launch/slurm/synthesize.sbatch")
TASKS = 2
STOPPED = 75
SRUN = '#!/bin/sh\necho "srun $*" >> "$CALLS"\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n'
SCONTROL = (
    '#!/bin/sh\necho "scontrol $*" >> "$CALLS"\n[ "$1" = requeue ] || echo "   JobState=$STATE Reason=None"\n'
)


class Cluster:
    """Starts the script with the variables of an array task."""

    def __init__(self, folder: Path):
        self.calls = folder / "calls"
        self.calls.touch()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "CALLS": str(self.calls),
            "MGH_DS_PYTHON": sys.executable,
        }
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *words: str, task: int = 0, tasks: int = 1, **more: str) -> subprocess.Popen[str]:
        numbers = {"ID": task, "COUNT": tasks, "MIN": 0}
        array = {f"SLURM_ARRAY_TASK_{name}": str(number) for name, number in numbers.items()}
        job = {"SLURM_JOB_ID": str(100 + task), "SLURM_ARRAY_JOB_ID": "100", "STATE": "RUNNING"}
        process = subprocess.Popen(
            ["bash", str(SCRIPT), *words],
            env=self.environment | array | job | more,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def asked(self) -> list[str]:
        return self.calls.read_text().splitlines()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "bin"
    folder.mkdir()
    cluster = Cluster(folder)
    yield cluster
    for process in cluster.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def plan_in(folder: Path, *settings: str) -> SynthesisPlan:
    few = ["--samples.budget.samples", "200", "--chunk", "32", "--tasks.calls", "8"]
    return freeze_plan(["--config", "configs/synth-scripted.yaml", *few, *settings], folder)


def logs(plan: SynthesisPlan) -> str:
    return "".join(path.read_text() for path in sorted((plan.folder / "logs").glob("slurm-*.log")))


def contents(plan: SynthesisPlan) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (plan.folder / "work").rglob("*.*") if path.is_file()}


def test_an_array_finishes_all_shards_and_may_be_submitted_again(cluster: Cluster, tmp_path: Path) -> None:
    plan = plan_in(tmp_path / "plan")

    def submit() -> list[int]:
        tasks = [cluster.start(str(plan.folder), task=task, tasks=TASKS) for task in range(TASKS)]
        return [task.wait(timeout=120) for task in tasks]

    assert submit() == [0] * TASKS, logs(plan)
    assert [status.done for status in read_status(plan).values()] == [plan.config.shards] * 2
    given = sorted(re.findall(r"--shard (\d+)", "\n".join(cluster.asked())))
    assert given == ["0", "1", "2", "3"]
    before = contents(plan)

    assert submit() == [0] * TASKS, logs(plan)
    assert contents(plan) == before
    assert len(list((plan.folder / "logs").glob("slurm-100_*.log"))) == TASKS
    assert merge(plan).counts.accepted >= 200
    assert not [call for call in cluster.asked() if "requeue" in call]


def test_a_task_that_is_told_to_stop_is_requeued_and_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    plan = plan_in(tmp_path / "plan", "--engine.scripted.delay_s", "0.3")
    slowly = [str(plan.folder), "--engine.max_in_flight", "4"]
    for state, requeued in (("RUNNING", ["scontrol requeue 100"]), ("CANCELLED", [])):
        task = cluster.start(*slowly, STATE=state)
        wait_for_work(plan)
        task.send_signal(signal.SIGTERM)  # the batch shell alone, as --signal=B: has it
        assert task.wait(timeout=30) == STOPPED, logs(plan)
        assert [call for call in cluster.asked() if "requeue" in call] == requeued
        assert "what was finished is kept" in logs(plan)
        cluster.calls.write_text("")

    # The jobs' own words win: more calls at once, so that the rest does not take long.
    assert cluster.start(str(plan.folder), "--engine.max_in_flight", "512").wait(timeout=60) == 0, logs(plan)
    assert [status.done for status in read_status(open_plan(plan.folder)).values()] == [4, 4]
    assert merge(plan).counts.accepted >= 200


def wait_for_work(plan: SynthesisPlan) -> None:
    """Until a worker has made another journal."""
    before = set((plan.folder / "work").rglob("*.journal"))
    until = time.monotonic() + 60
    while not set((plan.folder / "work").rglob("*.journal")) - before:
        assert time.monotonic() < until, logs(plan)
        time.sleep(0.05)


def test_a_refused_command_is_not_requeued(cluster: Cluster, tmp_path: Path) -> None:
    plan = plan_in(tmp_path / "plan")
    task = cluster.start(
        str(plan.folder), "--seed", "7", MGH_DS_SRUN_ARGS="--cpu-bind=none --container-image=x"
    )
    assert task.wait(timeout=60) == 1
    assert "`seed` (frozen as 0, now 7) is part of the frozen plan" in logs(plan)
    (call,) = cluster.asked()
    assert call.startswith("srun --cpu-bind=none --container-image=x ")
    assert "-m mgh_ds.cli synth run" in call


def test_a_containers_python_need_not_be_seen_from_here(cluster: Cluster, tmp_path: Path) -> None:
    plan = plan_in(tmp_path / "plan", "--name", 'odd "shards": 9')
    (tmp_path / "bin" / "srun").write_text('#!/bin/sh\necho "srun $*" >> "$CALLS"\n')  # Python is in there
    inside = {"MGH_DS_PYTHON": "/in/the/container/python", "MGH_DS_SRUN_ARGS": "--container-image=x"}
    assert cluster.start(str(plan.folder), task=1, tasks=2, **inside).wait(timeout=30) == 0, logs(plan)
    run = f"-m mgh_ds.cli synth run {plan.folder} --shard 1 --shard 3"
    assert cluster.asked() == [f"srun --container-image=x /in/the/container/python {run}"]

    outside = cluster.start(str(plan.folder), MGH_DS_PYTHON="/in/the/container/python")
    assert (
        "there is no /in/the/container/python: name one in MGH_DS_PYTHON"
        in outside.communicate(timeout=30)[0]
    )
    (plan.folder / "plan.json").write_text("{}")
    broken = cluster.start(str(plan.folder))
    assert "plan.json cannot be read: it names no number of shards" in broken.communicate(timeout=30)[0]
    assert (outside.returncode, broken.returncode) == (1, 1)


@pytest.mark.parametrize(
    ("words", "numbers", "code", "said"),
    [
        ([], {}, 1, "which plan?"),
        (["nowhere"], {}, 1, "nowhere holds no plan.json"),
        (["PLAN"], {"task": 7, "tasks": 2}, 1, "the array has gaps"),
        (["PLAN"], {"task": 5, "tasks": 6}, 0, "nothing to do: there are 6 tasks for 4 shards"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    cluster: Cluster, tmp_path: Path, words: list[str], numbers: dict[str, int], code: int, said: str
) -> None:
    plan = plan_in(tmp_path / "plan")
    words = [str(plan.folder) if word == "PLAN" else word for word in words]
    task = cluster.start(*words, **numbers)  # type: ignore[arg-type]
    assert said in task.communicate(timeout=30)[0]
    assert task.returncode == code
    assert cluster.asked() == []


def test_shells_can_read_the_script() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    lines = SCRIPT.read_text().splitlines()
    assert "#SBATCH --requeue" in lines
    assert "#SBATCH --signal=B:TERM@120" in lines
