"""What may be thrown away at any time: the project's part of the user's cache."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from mgh_ds.common import files
from mgh_ds.common.errors import MghError


def cache_folder() -> Path:
    """The project's folder in the user's cache, made if need be; where nothing can be written there, as with
    a home that is read-only, one of this user's among the machine's temporary folders.

    Raises MghError if there is none of them.
    """
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: nobody knows where the home is
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mgh-ds"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    folder = Path(tempfile.gettempdir()) / f"mgh-ds-{os.getuid()}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid == os.getuid():  # else whoever was first decides what is in it
            return folder
    raise MghError(f"no folder for a cache: neither the home nor {folder} can be written; set XDG_CACHE_HOME")


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, a folder in the cache, which `make(folder)` makes whole or not at all (`files.new_folder`) at
    the first call. Of the processes that start together one makes it and the others wait.

    Raises what `make` raises.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.parent / f".{folder.name}.lock"
    with files.hold(lock, wait=True) or contextlib.nullcontext() as held:
        if folder.exists():
            return folder
        if held is not None:
            _remove_remains(folder)
        try:
            make(folder)
        except MghError:
            if not folder.exists():  # else it was made meanwhile, where the disk knows no locks
                raise
    return folder


def _remove_remains(folder: Path) -> None:
    """What a process that was killed while it made `folder` left beside it."""
    for path in folder.parent.iterdir():
        if path.name.startswith(f".{folder.name}.") and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
