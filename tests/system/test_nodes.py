"""`deepspeed --hostfile` over ssh between two machines, and what becomes of a run whose network is cut."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system import ssh_servers
from tests.system.machines import Machines, training_environment, wait_until
from tests.system.runs import CONFIG, SETTINGS, STEPS, assert_same, checkpoints, run_in, steps

pytestmark = [pytest.mark.system, pytest.mark.timeout(900), pytest.mark.xdist_group("machines")]

CARRIED = ("DS_ACCELERATOR", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")
LIMIT = 20  # seconds of silence


class Run:
    """`deepspeed --hostfile` on the head, with one rank on each node."""

    def __init__(self, machines: Machines, folder: Path, *settings: str) -> None:
        self.machines, self.folder, self.log = machines, folder, folder / "log"
        hostfile, carried = folder / "hostfile", folder / "deepspeed_env"
        hostfile.write_text("".join(f"{node.name} slots=1\n" for node in machines.nodes))
        environment = training_environment()
        carried.write_text("".join(f"{name}={environment[name]}\n" for name in CARRIED))
        launcher = ["deepspeed", "--hostfile", str(hostfile), "--ssh_port", str(ssh_servers.PORT)]
        recipe = ["launch/train.py", "--config", CONFIG, *SETTINGS, "--folder", str(folder), *settings]
        self.process = machines.head.start(
            *launcher, *recipe, log=self.log, env=environment | {"DS_ENV_FILE": str(carried)}
        )

    def ranks(self) -> list[set[str]]:
        """The ranks at work, node by node."""
        found = [node.processes("launch/train.py").values() for node in self.machines.nodes]
        return [{each["RANK"] for each in node if "RANK" in each} for node in found]

    def reach(self, condition: Callable[[], object]) -> None:
        """Waits until `condition()` is true; fails where the run ends before."""
        wait_until(lambda: condition() or self.process.poll() is not None, self.said, 300, pause=0.05)
        assert condition(), self.said()

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-8000:] + self.machines.nodes[1].said()[-1000:]


@pytest.fixture(scope="module")
def connected(machines: Machines) -> Machines:
    """Machines that may log into each other."""
    ssh_servers.start_servers(machines)
    return machines


def test_two_machines_train_as_one_does(connected: Machines, undisturbed: Path, tmp_path: Path) -> None:
    run = Run(connected, tmp_path)
    run.reach(lambda: run.ranks() == [{"0"}, {"1"}])
    assert run.process.wait(timeout=400) == 0, run.said()
    assert_same(run_in(tmp_path), undisturbed)


def test_a_cut_cable_ends_the_run_with_the_name_of_the_silent_rank(
    connected: Machines, undisturbed: Path, tmp_path: Path
) -> None:
    run = Run(connected, tmp_path, "--training.silence_limit_s", str(LIMIT))
    run.reach(lambda: checkpoints(run_in(tmp_path)))
    silent = connected.nodes[1]
    connected.cut(silent)
    cut = time.monotonic()
    assert len(steps(run_in(tmp_path))) < STEPS
    wait_until(lambda: run.ranks() == [set(), set()], run.said, seconds=3 * LIMIT)
    print(f"both ranks had ended {time.monotonic() - cut:.0f} s after the cut")
    assert run.process.wait(timeout=60) != 0, run.said()
    assert "rank 1" in run.log.read_text()

    # Mended, the same command goes on.
    connected.mend(silent)
    again = Run(connected, tmp_path)
    assert again.process.wait(timeout=400) == 0, again.said()
    assert "going on from" in again.log.read_text()
    assert_same(run_in(tmp_path), undisturbed)
