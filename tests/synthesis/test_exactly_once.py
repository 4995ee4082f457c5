"""Killed with SIGKILL at any moment, any number of workers: the merged bytes equal an undisturbed run's."""

import random
import shutil
import signal
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from mgh_ds.synthesis.merge import merge
from mgh_ds.synthesis.plan import open_plan
from tests.forkserver import SERVER
from tests.synthesis.kill_worker import work
from tests.synthesis.recipes import content, small_plan

ALL = [0, 1, 2, 3]
KILLS_BY_TIME, KILLS_BY_STEP = 12, 13  # for each of 1 to 8 workers: 200 in all
KILLED: list[int] = []  # workers that ended by SIGKILL, test by test
DELAY = ("--engine.scripted.delay_s", "0.004")


def start(folder: Path, shards: Sequence[int], kill_at: int | None = None) -> ForkServerProcess:
    process = SERVER.Process(target=work, args=(folder, list(shards), kill_at))
    process.start()
    return process


def merged(folder: Path) -> dict[str, bytes]:
    return content(merge(open_plan(folder)).path)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan on which nobody has worked."""
    return small_plan(tmp_path_factory.mktemp("frozen") / "plan", *DELAY).folder


@pytest.fixture(scope="module")
def undisturbed(frozen: Path) -> dict[str, bytes]:
    folder = frozen.with_name("undisturbed")
    shutil.copytree(frozen, folder)
    work(folder, ALL)
    found = merged(folder)
    assert {"manifest.json", "README.md", "units.parquet", "part-00000.arrow"} == found.keys()
    return found


@pytest.mark.parametrize("workers", range(1, 9))
def test_killed_at_random_moments(
    workers: int, frozen: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    draw = random.Random(workers)
    killed = 0
    for case in range(KILLS_BY_TIME):
        folder = tmp_path / f"{case}"
        shutil.copytree(frozen, folder)
        processes = [start(folder, draw.sample(ALL, 4)) for _ in range(workers)]
        time.sleep(draw.uniform(0.0, 0.9))
        victims = draw.sample(processes, draw.randint(1, workers))
        for victim in victims:
            victim.kill()
        for process in processes:
            process.join()
            assert process.exitcode in ({0, -signal.SIGKILL} if process in victims else {0})
            killed += process.exitcode == -signal.SIGKILL
        work(folder, ALL)
        assert merged(folder) == undisturbed, (workers, case)
    KILLED.append(killed)


@pytest.mark.parametrize("workers", range(1, 9))
def test_killed_between_and_within_writes(
    workers: int, frozen: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    draw = random.Random(100 + workers)
    killed = 0
    for case in range(KILLS_BY_STEP):
        folder = tmp_path / f"{case}"
        shutil.copytree(frozen, folder)
        kill_at = draw.randint(1, 60 // workers + 5)
        processes = [start(folder, draw.sample(ALL, 4), kill_at) for _ in range(workers)]
        for process in processes:
            process.join()
            killed += process.exitcode == -signal.SIGKILL
        work(folder, ALL)
        assert merged(folder) == undisturbed, (workers, case, kill_at)
    KILLED.append(killed)


def test_two_hundred_kills_hit_a_worker_at_work() -> None:
    if len(KILLED) < 16:
        pytest.skip("only together with the tests above")
    assert sum(KILLED) >= 200
