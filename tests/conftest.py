"""Settings that every test shares."""

import errno
import os

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


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS])
def disk_without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file system refuses to lock, in one of the ways of clusters' disks."""

    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("mgh_ds.common.files.fcntl.flock", refuse)
