"""SHA-256 of files, each large one read once: what was found is kept in the cache.

A remembered sum counts only while the file is the same to the disk: path, size, inode, and the times when its
content and its entry last changed. A cache that cannot be read or written costs time and nothing else.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from pathlib import Path

from mgh_ds.common import files
from mgh_ds.common.cache import cache_folder
from mgh_ds.common.errors import MghError

LARGE = 2**20  # bytes; smaller files are read again
# Two changes within one tick of the disk's clock look like one: what was changed so lately is not remembered.
SETTLED_S = 2.0


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises OSError if it cannot be read."""
    begun, before = time.time(), path.stat()
    if before.st_size < LARGE:
        return files.sha256(path)
    name = _name(path, before)
    with contextlib.suppress(OSError, MghError):
        found = (cache_folder() / "sha256" / name).read_bytes().decode("ascii", "replace")
        if re.fullmatch("[0-9a-f]{64}", found):
            return found
    digest = files.sha256(path)
    settled = max(before.st_mtime, before.st_ctime) + SETTLED_S < begun
    if settled and _name(path, path.stat()) == name:
        with contextlib.suppress(OSError, MghError):
            files.write_text(cache_folder() / "sha256" / name, digest)
    return digest


def _name(path: Path, stat: os.stat_result) -> str:
    """Of the cache's file for what the disk says of `path`."""
    known = [str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()
