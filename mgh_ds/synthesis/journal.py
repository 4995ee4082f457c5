"""An append-only journal: what is written survives kill -9 at any moment, and a torn end is never read.

Each entry is its payload's length (4 bytes), a checksum (8 bytes of blake2b) and the payload, JSON in UTF-8.
A journal belongs to the process that made it and is never written by another: whoever comes later reads it up
to the first entry that is not whole, and goes on in a journal of its own.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mgh_ds.common import files

HEADER = struct.Struct("<I8s")
MAX_ENTRY_BYTES = 64 * 2**20


class Journal:
    """A new journal, open for appending. Raises OSError (also for a full disk)."""

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("xb", buffering=0)
        files.sync_folder(path.parent)  # its entries would be of no use without its name
        self._dirty = False

    def append(self, entries: list[dict[str, Any]]) -> None:
        """Hands the entries to the operating system in one write: they survive this process, not yet the
        machine."""
        data = b"".join(_encode(entry) for entry in entries)
        while data:
            data = data[self._file.write(data) :]
        self._dirty = True

    def sync(self) -> None:
        """Makes what was appended survive the machine, too."""
        if self._dirty:
            os.fsync(self._file.fileno())
            self._dirty = False

    def close(self) -> None:
        """Closes the file without a flush. A later `sync` does nothing, since a signal may end the worker
        between a journal's close and the end of its chunk."""
        self._dirty = False
        self._file.close()


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a journal up to the first that is torn, damaged or missing."""
    with path.open("rb") as file:
        while len(header := file.read(HEADER.size)) == HEADER.size:
            length, checksum = HEADER.unpack(header)
            payload = file.read(length) if length <= MAX_ENTRY_BYTES else b""
            if len(payload) < length or _checksum(payload) != checksum:
                return
            yield json.loads(payload)


def _encode(entry: dict[str, Any]) -> bytes:
    payload = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return HEADER.pack(len(payload), _checksum(payload)) + payload


def _checksum(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=8).digest()
