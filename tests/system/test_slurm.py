"""launch/slurm/train.sbatch and evaluate.sbatch on a real SLURM with two nodes: finished, preempted, warned,
refused."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.evaluation.conftest import PAIRS, write_jsonl
from tests.system.machines import Machine, Machines
from tests.system.runs import CONFIG, SETTINGS, STEPS, assert_same, checkpoints, run_in, steps
from tests.system.slurm_cluster import Job, SlurmCluster

pytestmark = [pytest.mark.system, pytest.mark.timeout(900), pytest.mark.xdist_group("machines")]

TRAIN = ("--exclusive", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1")


@pytest.fixture(scope="module")
def cluster(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> SlurmCluster:
    return SlurmCluster(tmp_path_factory.mktemp("slurm"), machines)


def train(cluster: SlurmCluster, folder: Path, *words: str, **variables: str) -> Job:
    script = ["launch/slurm/train.sbatch", CONFIG, *SETTINGS, "--folder", str(folder)]
    return cluster.submit(*TRAIN, *script, *words, **variables)


def ranks_on(node: Machine) -> dict[str, int]:
    """The ranks of the run that a node works on, and their processes."""
    found = node.processes("mgh_ds.train").items()
    return {each["SLURM_PROCID"]: number for number, each in found if "SLURM_STEP_NUM_TASKS" in each}


def in_the_middle(job: Job, folder: Path) -> None:
    """Waits until the run has made a few steps; asserts that it has many before it."""
    job.reach(lambda: len(steps(run_in(folder))) >= 3)
    assert len(steps(run_in(folder))) < STEPS


def test_two_nodes_train_as_one_machine_does(
    cluster: SlurmCluster, undisturbed: Path, tmp_path: Path
) -> None:
    job = train(cluster, tmp_path)
    for number, node in enumerate(cluster.machines.nodes):
        job.reach(lambda node=node, number=number: str(number) in ranks_on(node))
    facts = job.wait()
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("COMPLETED", "0:0", "0"), job.said()
    assert_same(run_in(tmp_path), undisturbed)


def test_a_preempted_run_is_requeued_and_ends_as_if_nothing_had_been(
    cluster: SlurmCluster, undisturbed: Path, tmp_path: Path
) -> None:
    job = train(cluster, tmp_path)
    in_the_middle(job, tmp_path)
    urgent = cluster.submit("--partition=high", "--nodes=2", "--exclusive", "--wrap", "hostname")
    assert urgent.wait()["JobState"] == "COMPLETED", job.said()
    assert 3 <= len(steps(run_in(tmp_path))) < STEPS, "the urgent job came in the middle"
    facts = job.wait()
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), job.said()
    assert "going on from" in job.log()
    assert_same(run_in(tmp_path), undisturbed)


def test_a_run_that_is_warned_saves_and_is_requeued(
    cluster: SlurmCluster, undisturbed: Path, tmp_path: Path
) -> None:
    job = train(cluster, tmp_path)
    in_the_middle(job, tmp_path)
    cluster.ask("scancel", "--signal=USR1", job.number)
    job.reach(lambda: "requeued after code 75" in job.log())
    assert 3 <= len(steps(run_in(tmp_path))) < STEPS
    facts = job.wait()
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), job.said()
    assert_same(run_in(tmp_path), undisturbed)


def test_a_run_that_lost_a_rank_starts_again(
    cluster: SlurmCluster, undisturbed: Path, tmp_path: Path
) -> None:
    job = train(cluster, tmp_path, "--training.silence_limit_s", "20")
    job.reach(lambda: checkpoints(run_in(tmp_path)))
    os.kill(ranks_on(cluster.machines.nodes[1])["1"], signal.SIGKILL)
    facts = job.wait()
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), job.said()
    assert "rank 1 (node2" in job.log()
    assert "requeued after code 137" in job.log()
    assert "going on from" in job.log()
    assert_same(run_in(tmp_path), undisturbed)


def test_a_cancelled_run_stays_cancelled(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = train(cluster, tmp_path)
    in_the_middle(job, tmp_path)
    cluster.ask("scancel", job.number)
    facts = job.wait()
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0"), job.said()


def test_what_a_person_must_mend_is_not_requeued(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = train(cluster, tmp_path, "--training.step", "7")
    facts = job.wait()
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "1:0", "0"), job.said()
    assert "error: command line: unknown key `training.step`; did you mean `training.steps`?" in job.log()
    assert "Traceback" not in job.log()


def test_an_array_shares_the_tasks_and_leaves_one_table(cluster: SlurmCluster, tmp_path: Path) -> None:
    for name, scores in (("STS17-en", 1), ("SICK-R", -1)):
        rows = [{"sentence1": a, "sentence2": b, "score": scores * score} for a, b, score in PAIRS]
        write_jsonl(tmp_path / "data" / name / "test.jsonl", rows)
    output = tmp_path / "results"
    model = ["sentence-transformers/all-MiniLM-L6-v2", str(output), "STS17", "SICK-R"]
    options = ["--pooling", "mean", "--max-length", "32", "--data-dir", str(tmp_path / "data")]
    flags = ["--array=0-1", "--gpus-per-task=0", "--cpus-per-task=1"]

    def submit() -> Job:
        job = cluster.submit(*flags, "launch/slurm/evaluate.sbatch", *model, *options)
        job.wait()
        assert job.states() == ["COMPLETED"] * 2, job.said()
        return job

    submit()
    scores = {}
    for name in ("STS17", "SICK-R"):
        (task,) = json.loads((output / f"{name}.json").read_text())["tasks"].items()
        assert task[0] == name
        scores[name] = task[1]["score"]
    assert scores["STS17"] > 0.5 > -0.5 > scores["SICK-R"], "each from its own data"
    table = (output / "results.md").read_text()
    assert all(f"{name} " in table and f"{100 * score:.2f}" in table for name, score in scores.items())

    before = {path: path.stat().st_mtime_ns for path in output.glob("*.json")}
    submit()
    assert {path: path.stat().st_mtime_ns for path in output.glob("*.json")} == before, "scored once"
    assert (output / "results.md").read_text() == table
