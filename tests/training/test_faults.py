"""Faults that real processes meet: killed, stopped, frozen, out of disk, out of numbers. Nothing is lost and
nothing is trained twice: the ledger, the losses and the weights are those of a run without the fault."""

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mgh_ds.common import files
from mgh_ds.distributed.exits import ExitCode
from mgh_ds.training import checkpoint
from mgh_ds.training.config import RunConfig
from mgh_ds.training.run_folder import RunFolder
from tests.effort import KILLS
from tests.ranks import Ranks, run_ranks, start_ranks
from tests.training import run_worker
from tests.training.run_worker import PHASES, WRITER_PHASES, Fault
from tests.training.test_resume import assert_equal_runs, ledger, losses

Make = Callable[..., RunConfig]


def named(config: RunConfig, name: str) -> RunConfig:
    return config.replace(name=name)


def wait_for_step(config: RunConfig, step: int) -> None:
    """Until that many steps stand in the ledger."""
    until = time.monotonic() + 120
    while len(ledger(config)) < step:
        assert time.monotonic() < until, "the run does not get on"
        time.sleep(0.05)


@pytest.mark.timeout(60 + 60 * KILLS)
def test_killed_at_random_moments_equals_never_killed(
    tiny_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run, killed again and again: a random rank in a random phase of a random step."""
    sizes = {"steps": 3 * KILLS, "checkpoint_every": 2}
    whole, killed = named(tiny_run(**sizes), "whole"), named(tiny_run(**sizes), "killed")
    run_ranks(2, run_worker.train, whole, timeout=60 + 10 * KILLS)
    seed = int(os.environ.get("MGH_DS_KILL_SEED", random.randrange(10**6)))
    with capsys.disabled():
        print(f"\nkill points drawn with MGH_DS_KILL_SEED={seed}: ", end="")
    draw = random.Random(seed)
    for number in range(KILLS):
        phase = PHASES[number] if number < len(PHASES) else draw.choice(PHASES)
        # Reading ahead, shards and their proof belong to no step: they strike where they come first.
        ahead = 0 if phase in ("load", "shard", "boundary") else len(ledger(killed)) + draw.randrange(4)
        step = min(ahead, sizes["steps"] - 2)
        if phase == "shard":
            shutil.rmtree(killed.path / "shards", ignore_errors=True)
        own = 0 if phase in WRITER_PHASES else draw.randrange(2)
        with Ranks(2, run_worker.train, killed, Fault(phase, step, own)) as ranks:
            codes = ranks.wait_for_the_first(timeout=120)
            assert codes[own] == -signal.SIGKILL, (phase, step, own, ranks.outputs())
        with capsys.disabled():
            print(f"{phase} of step {step} on rank {own}; ", end="", flush=True)
    run_ranks(2, run_worker.train, killed, timeout=60 + 10 * KILLS)
    assert_equal_runs(killed, whole)
    assert [entry["step"] for entry in ledger(killed)] == list(range(1, sizes["steps"] + 1))


@pytest.mark.parametrize("own", [0, 1])
def test_a_frozen_rank_ends_the_job_with_its_name(own: int, tiny_run: Make) -> None:
    limit = 6.0
    config = tiny_run(steps=1000, silence_limit_s=limit)
    with Ranks(2, run_worker.train, config) as ranks:
        wait_for_step(config, 2)
        ranks.send(own, signal.SIGSTOP)
        frozen_at = time.monotonic()
        other = ranks.processes[1 - own]
        other.join(5 * limit)
        took = time.monotonic() - frozen_at
        assert other.exitcode == ExitCode.RANK_LOST, ranks.outputs()
        message = ranks.outputs()[1 - own].splitlines()[-1]
        assert f"rank {own} (" in message
        silence = re.search(r"has given no sign of life for (\d+) s", message)
        assert silence, message
        assert int(silence[1]) >= limit
        beat = limit / 8  # so old the last sign of life may be when the rank freezes
        assert limit - beat <= took < 4 * limit
        if own == 1:
            assert f"process {ranks.processes[1].pid})" in message


def test_a_killed_rank_ends_the_others_with_its_name(tiny_run: Make) -> None:
    config = tiny_run(steps=1000, silence_limit_s=6)
    codes, outputs = start_ranks(3, run_worker.train, config, Fault("gather", step=3), timeout=100)
    assert codes == [ExitCode.RANK_LOST, -signal.SIGKILL, ExitCode.RANK_LOST], outputs
    assert "error: rank 1 (" in outputs[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_asked_to_stop_it_saves_and_says_so(number: signal.Signals, tiny_run: Make) -> None:
    config = tiny_run(steps=1000, checkpoint_every=1000)
    with Ranks(2, run_worker.train, config) as ranks:
        wait_for_step(config, 2)
        ranks.send(1, number)  # one rank alone is told
        assert ranks.wait(60) == [ExitCode.STOPPED] * 2, ranks.outputs()
        done = len(ledger(config))
        assert f"stopped as asked: {done} of 1000 steps are done and saved" in ranks.outputs()[0]
    assert [path.name for path in (config.path / "checkpoints").iterdir()] == [f"step-{done:06d}"]


def test_stopped_and_resumed_equals_never_stopped(tiny_run: Make) -> None:
    whole, stopped = named(tiny_run(), "whole"), named(tiny_run(), "stopped")
    run_ranks(2, run_worker.train, whole)
    for step in (0, 2, 3):
        fault = Fault("forward", step, rank=step % 2, action="terminate")
        codes, outputs = start_ranks(2, run_worker.train, stopped, fault, timeout=100)
        assert codes == [ExitCode.STOPPED] * 2, outputs
    run_ranks(2, run_worker.train_with_one_reader, stopped)
    assert_equal_runs(stopped, whole)


def test_files_damaged_between_two_starts_are_noticed_and_replaced(tiny_run: Make) -> None:
    """The newest checkpoint and a shard: the run goes back to the checkpoint before, and reads the store."""
    whole, damaged = named(tiny_run(), "whole"), named(tiny_run(), "damaged")
    run_ranks(2, run_worker.train, whole)
    start_ranks(2, run_worker.train, damaged, Fault("forward", step=4, after="step-000004"), timeout=100)
    weights = damaged.path / "checkpoints" / "step-000004" / checkpoint.WEIGHTS
    shards = sorted((damaged.path / "shards").glob("stage-*-rank-1-of-2.arrow"))
    assert shards
    for path in (weights, *shards):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    outputs = run_ranks(2, run_worker.train, damaged)
    assert "step-000004 is damaged and was passed over" in outputs[0]
    assert "2 of 6 steps are done" in outputs[0]
    assert_equal_runs(damaged, whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode != 0:
        why = f"needs the right to mount a tmpfs: {mounted.stderr.decode().strip()}"
        if os.environ.get("MGH_DS_NO_SKIPS"):
            pytest.fail(why)
        pytest.skip(why)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_the_run_and_spoils_nothing(tiny_run: Make, small_disk: Path) -> None:
    whole = named(tiny_run(checkpoint_every=1), "whole")
    run_ranks(2, run_worker.train, whole)
    full = named(tiny_run(checkpoint_every=1), "full").replace(folder=str(small_disk))
    codes, outputs = start_ranks(
        2, run_worker.train, full, Fault("forward", 2, action="terminate"), timeout=100
    )
    assert codes == [ExitCode.STOPPED] * 2, outputs
    ballast = small_disk / "ballast"
    for room in (64 * 1024, 0):  # for a few lines but no checkpoint; for nothing
        ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - room))
        codes, outputs = start_ranks(2, run_worker.train_reporting_error, full, timeout=100)
        assert codes == [ExitCode.MEND] * 2, outputs
        assert "No space left on device" in outputs[0]
        kept = sorted(path.name for path in (full.path / "checkpoints").glob("step-*"))
        assert kept == ["step-000002", "step-000003"]
        ballast.unlink()
    run_ranks(2, run_worker.train, full)
    assert_equal_runs(full, whole)


@pytest.mark.parametrize("phase", ["forward", "reduce"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(phase: str, tiny_run: Make) -> None:
    """On one rank only. Interrupted after it, the run is the same as without the interruption."""
    whole, killed = named(tiny_run(), "whole"), named(tiny_run(), "killed")
    poison = Fault(phase, step=2, action="nan")
    run_ranks(2, run_worker.train, whole, poison)
    assert [step for step, _ in losses(whole)] == [1, 2, 4, 5, 6]
    (skipped,) = [entry for entry in ledger(whole) if "skipped" in entry]
    assert skipped["step"] == 3
    assert "is not finite" in skipped["skipped"]
    (line,) = [entry for entry in RunFolder(whole.path).metrics.entries() if entry["kind"] == "skipped"]
    assert set(line["ids"]) <= set(skipped["ids"])

    codes, _ = start_ranks(2, run_worker.train, killed, poison, Fault("update", 4), timeout=100)
    assert -signal.SIGKILL in codes
    run_ranks(2, run_worker.train, killed)
    assert_equal_runs(killed, whole)


def test_steps_that_are_never_finite_end_the_run_with_their_records(tiny_run: Make) -> None:
    config = tiny_run(bad_steps_limit=2)
    run_ranks(2, run_worker.train, named(config, "whole"))
    poisoned = named(config, "poisoned")
    outputs = run_ranks(2, run_worker.train_expecting_error, poisoned, Fault("reduce", step=-1, action="nan"))
    for rank, output in enumerate(outputs):
        assert f"rank {rank}: MghError: 2 steps in a row were skipped (steps 1, 2)" in output
    bad = files.read_json(poisoned.path / "bad_steps.json")
    assert [entry["ids"] for entry in bad] == [entry["ids"] for entry in ledger(poisoned)]
    assert not list((poisoned.path / "checkpoints").glob("step-*")), "no poisoned weights were saved"
    run_ranks(2, run_worker.train, poisoned)
    assert_equal_runs(poisoned, named(config, "whole"))


def test_an_error_of_one_rank_ends_all_with_its_words(tiny_run: Make) -> None:
    config = tiny_run(steps=1000)
    codes, outputs = start_ranks(3, run_worker.train_failing_alone, config, timeout=100)
    assert codes == [ExitCode.MEND] * 3, outputs
    assert re.search(r"error: rank 1 \(.*, process \d+\): the paper jams", outputs[0])


def test_a_second_start_of_the_same_run_is_refused(tiny_run: Make) -> None:
    config = tiny_run(steps=1000)
    with Ranks(1, run_worker.train, config) as first:
        wait_for_step(config, 1)
        (output,) = run_ranks(1, run_worker.train_expecting_error, config)
        assert "another job is training in" in output
        first.send(0, signal.SIGTERM)
        assert first.wait(60) == [ExitCode.STOPPED]
    assert [entry["step"] for entry in ledger(config)] == list(range(1, len(ledger(config)) + 1))


@pytest.mark.usefixtures("disk_without_locks")
def test_a_disk_without_locks_is_no_obstacle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path / "run").hold()
    assert "cannot be locked: see that no second job trains in it" in capsys.readouterr().out
