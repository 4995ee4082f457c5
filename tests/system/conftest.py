"""Machines, what a skipped test counts for, and which tests come first."""

import os
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from mgh_ds.distributed.group import free_port
from tests.system.machines import Machines, training_environment
from tests.system.packages import need_namespaces, need_packages
from tests.system.runs import CONFIG, SETTINGS, run_in


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where MGH_DS_NO_SKIPS is set, a test that cannot run here has failed."""
    report = yield
    if report.skipped and os.environ.get("MGH_DS_NO_SKIPS"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"MGH_DS_NO_SKIPS is set, and this was skipped: {reason}"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """vLLM's first: nothing else keeps one of several workers busy for so long."""
    groups = {item: [mark.args[0] for mark in item.iter_markers("xdist_group")] for item in items}
    items.sort(key=lambda item: not any(group.startswith("vllm") for group in groups[item]))


@pytest.fixture(scope="session")
def equipped() -> None:
    """Whether this is a place for several machines; skips where it is not."""
    need_packages()
    need_namespaces()


@pytest.fixture(scope="module")
def machines(equipped: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:  # noqa: ARG001
    """A head and two nodes."""
    machines = Machines(tmp_path_factory.mktemp("machines"))
    yield machines
    machines.stop()


@pytest.fixture(scope="session")
def undisturbed(equipped: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """A run on two ranks of one machine that nothing interrupts."""
    folder = tmp_path_factory.mktemp("undisturbed")
    launcher = ["deepspeed", "--num_accelerators", "2", "--master_port", str(free_port())]
    done = subprocess.run(
        [*launcher, "launch/train.py", "--config", CONFIG, *SETTINGS, "--folder", str(folder)],
        env=training_environment(),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return run_in(folder)
