"""What may be thrown away at any time: the project's part of the user's cache."""

import contextlib
import os
import tempfile
from pathlib import Path

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
