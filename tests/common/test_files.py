"""Files: a lock that a file system does not know is none; one that it fails to give is an error with path and
advice."""

import errno
import os
from pathlib import Path

import pytest

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.parts import write_new_json

ENOTSUPP = 524  # what Linux's own code says, and some network file systems pass on


def refuse_with(number: int, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"mgh_ds.common.files.{function}", refuse)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, ENOTSUPP])
@pytest.mark.parametrize("wait", [False, True])
def test_where_there_are_no_locks_one_goes_on_without(
    number: int,
    wait: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refuse_with(number, monkeypatch, "fcntl.flock")
    assert files.hold(tmp_path / "lock", wait=wait) is None
    assert files.hold_folder(tmp_path, held="held", lockless="start it once") is None
    assert capsys.readouterr().out == f"{tmp_path} cannot be locked: start it once\n"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EINVAL])
def test_a_lock_that_fails_names_the_file_and_what_to_do(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_with(number, monkeypatch, "fcntl.flock")
    for take in (
        lambda: files.hold(tmp_path / ".lock"),
        lambda: files.hold_folder(tmp_path, held="held", lockless="start it once"),
    ):
        with pytest.raises(MghError) as refusal:
            take()
        assert f"{tmp_path / '.lock'} cannot be locked ({os.strerror(number)}, error {number})" in str(
            refusal.value
        )
        assert "choose a folder on another" in str(refusal.value)


def test_a_held_lock_is_no_failure(tmp_path: Path) -> None:
    held = files.hold(tmp_path / "lock")
    assert held is not None
    with pytest.raises(files.HeldError):
        files.hold(tmp_path / "lock")
    held.close()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, ENOTSUPP])
def test_where_there_are_no_hard_links_it_is_said(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_with(number, monkeypatch, "os.link")
    with pytest.raises(MghError, match=f"{tmp_path} is on a file system without hard links"):
        write_new_json(tmp_path / "done.json", {})
    assert not list(tmp_path.iterdir())
