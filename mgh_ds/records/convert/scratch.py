"""A temporary database: what a conversion must see whole before it can decide, in bounded memory."""

import sqlite3
from types import TracebackType
from typing import Self

from mgh_ds.common.errors import MghError


class ScratchDatabase:
    """The tables of `schema`, which SQLite keeps on disk (in TMPDIR) and removes by itself.

    Raises MghError on leaving if that disk was full.
    """

    def __init__(self, schema: str) -> None:
        self._database = sqlite3.connect("")  # an empty name is SQLite's for a temporary file of its own
        self._database.executescript(f"PRAGMA journal_mode = OFF; {schema}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
        if isinstance(error, sqlite3.OperationalError):
            raise MghError(
                f"Grouping failed in the temporary folder: {error}. Set TMPDIR to a folder with more space."
            ) from error
