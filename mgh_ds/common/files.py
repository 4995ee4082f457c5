"""Atomic files and folders: what is visible under its final name is complete and on disk."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from mgh_ds.common.errors import MghError


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces `path` by `data` in one step; a crash or a full disk leaves the old file as it was."""
    with new_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a file that takes the place of `path` when the block ends without an error.

    A crash or a full disk leaves the old file as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes strict JSON (NaN and infinities are refused), indented, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file; a missing or broken one becomes an `MghError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MghError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MghError(f"{path} is not valid JSON: {error}") from None


@contextlib.contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields an empty temporary folder that takes the name `path` when the block ends without an error.

    Raises MghError if `path` exists and `replace` is false. On an error nothing remains.
    """
    if path.exists() and not replace:
        raise MghError(f"{path} exists already: choose another name or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        sync_tree(temporary)
        temporary.chmod(0o755)
        if replace and path.exists():
            _replace_folder(path, temporary)
        elif path.exists():
            raise MghError(f"{path} was made by somebody else meanwhile: it was left as it is")
        else:
            temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def _replace_folder(path: Path, new: Path) -> None:
    """Puts `new` in the place of `path`: two renames, so that no moment shows half a folder."""
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
    path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


# The kernel's own word for "not supported": some network file systems let it through, and C has no name
# for it.
ENOTSUPP = 524
UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, ENOTSUPP)


class HeldError(Exception):
    """Another process holds a lock."""


def hold(lock: Path, *, wait: bool = False) -> IO[str] | None:
    """Locks the file `lock`, which is made if need be, until what is returned is closed or this process ends.

    None where the file system knows no locks, as on some clusters. While another process holds it, this one
    waits, or raises HeldError. Raises MghError where locks should work and do not.
    """
    file = lock.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise HeldError(f"{lock} is held by another process") from None
    except OSError as error:
        file.close()
        if error.errno not in (errno.ENOLCK, *UNSUPPORTED):
            raise MghError(
                f"{lock} cannot be locked ({error.strerror}, error {error.errno}), though its file system "
                "knows locks: try again, ask whoever runs it, or choose a folder on another file system"
            ) from error
        return None
    return file


def hold_folder(folder: Path, *, held: str, lockless: str) -> IO[str] | None:
    """Holds `folder`, by a file `.lock` in it, against a second process until this one ends.

    Raises MghError with the words `held` if another process has it. Where the file system knows no locks,
    prints that, and with `lockless` what the user should do instead, and returns None.
    """
    try:
        file = hold(folder / ".lock")
    except HeldError:
        raise MghError(held) from None
    if file is None:
        print(f"{folder} cannot be locked: {lockless}")
    return file


def require_writable(folder: Path, name: str) -> None:
    """Makes `folder` if need be. Raises MghError, which calls it `name`, if no file can be written to it: to
    be said before the work whose outcome goes there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MghError(f"{name}: nothing can be written to {folder} ({error.strerror})") from None


def sync_tree(folder: Path) -> None:
    """Flushes every file and folder below `folder` to disk."""
    for path in [folder, *folder.rglob("*")]:
        sync_folder(path)


def sync_folder(path: Path) -> None:
    """Flushes one folder entry (or one file) to disk, so that a rename survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_is_full(error: OSError) -> bool:
    """Whether a write failed for want of space or quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
