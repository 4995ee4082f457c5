"""Sums of files: right whatever the cache says, and taken once where it can be written."""

import os
import tempfile
from pathlib import Path

import pytest

from mgh_ds.common import checksums, files
from mgh_ds.common.cache import cache_folder
from mgh_ds.common.checksums import checksum
from mgh_ds.common.errors import MghError


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The files that were read whole; every one counts as large and as settled, and the cache is empty."""
    found = []
    sha256 = files.sha256

    def noted(path: Path) -> str:
        found.append(path)
        return sha256(path)

    monkeypatch.setattr(files, "sha256", noted)
    monkeypatch.setattr(checksums, "LARGE", 0)
    monkeypatch.setattr(checksums, "SETTLED_S", -1e9)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return found


def test_a_file_is_read_once_until_it_changes(read: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = checksum(path)
    assert checksum(path) == checksum(path) == first
    assert len(read) == 1
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=times)  # as long as before, and of the same time
    assert path.stat().st_mtime_ns == times[1]
    assert checksum(path) != first
    assert len(read) == 2
    link = tmp_path / "link"
    link.symlink_to(path)
    checksum(link)
    assert len(read) == 2, "a link is its file"


def test_small_files_and_those_just_written_are_read_again(
    read: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    monkeypatch.setattr(checksums, "SETTLED_S", 60.0)
    checksum(path), checksum(path)
    monkeypatch.setattr(checksums, "SETTLED_S", -1e9)
    monkeypatch.setattr(checksums, "LARGE", 4)
    checksum(path), checksum(path)
    assert len(read) == 4


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    read: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    sha256 = files.sha256

    def slow(path: Path) -> str:
        found = sha256(path)
        path.write_bytes(b"three")
        return found

    monkeypatch.setattr(files, "sha256", slow)
    assert checksum(path) != checksum(path)
    assert len(read) == 2


def test_a_damaged_cache_costs_time_alone(read: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = checksum(path)
    (kept,) = (tmp_path / "cache" / "mgh-ds" / "sha256").iterdir()
    for damage in (b"", b"\xff" * 64, kept.read_bytes()[:-1]):
        kept.write_bytes(damage)
        assert checksum(path) == first
    assert len(read) == 4
    assert checksum(path) == first
    assert len(read) == 4, "it is whole again"


def test_a_cache_that_cannot_be_written_costs_time_alone(
    read: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # a file
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    assert checksum(path) == checksum(path)
    assert len(read) == 2
    with pytest.raises(MghError, match=r"neither the home nor .* can be written; set XDG_CACHE_HOME"):
        cache_folder()


def test_a_home_that_cannot_be_written_leaves_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/dev/null")
    folder = cache_folder()
    assert folder == tmp_path / f"mgh-ds-{os.getuid()}"
    assert folder.stat().st_mode & 0o077 == 0, "nobody else may put anything there"
    monkeypatch.setattr(os, "getuid", lambda: 12345)  # nor have put it there before
    (tmp_path / "mgh-ds-12345").mkdir()
    with pytest.raises(MghError, match="no folder for a cache"):
        cache_folder()
