"""Settings that every test shares."""

import errno
import os
from pathlib import Path

# Before any library reads them: no hub, no accelerator, and one thread a process, since ranks share the
# cores.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

import pytest
import torch

# Without a GPU the Triton kernels run in Triton's interpreter, which must be known before Triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from tests.flash_builds import flash_builds  # noqa: F401
from tests.interpreter import interpreted_bfloat16, quick_interpreter  # noqa: F401

# The files that take longest; they start first, so that the workers of `make test` end together.
LONGEST = (
    "kernels/test_compilation.py",
    "training/test_faults.py",
    "synthesis/test_exactly_once.py",
    "test_launch.py",
    "kernels/test_triton.py",
    "kernels/test_whole_steps.py",
    "kernels/test_masks.py",
    "test_readme.py",
    "training/test_step.py",
    "training/test_resume.py",
    "training/test_evaluations.py",
    "training/test_gradients.py",
    "records/test_sample.py",
    "ablation/test_ablate.py",
    "benchmarks/test_cpu.py",
    "benchmarks/test_contenders.py",
    "model/test_triton.py",
    "synthesis/test_commands.py",
    "records/test_fuzz.py",
    "synthesis/test_worker.py",
    "curriculum/test_plan.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders files, and nothing within them."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS])
def disk_without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file system refuses to lock, in one of the ways of clusters' disks."""

    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("mgh_ds.common.files.fcntl.flock", refuse)
