"""Groups the pairs of a file by their first text, wherever in the file they stand, in bounded memory.

The pairs wait in a temporary SQLite database, which SQLite keeps on disk (in TMPDIR) and removes by itself.
"""

import hashlib
import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from mgh_ds.common.errors import MghError
from mgh_ds.records.rows import ErrorReport, Row, RowRefused
from mgh_ds.records.schema import Record


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts and what the data set says of them: a label's name or a score. `row` tells where it stood."""

    row: Row
    first: str
    second: str
    verdict: str | float


class PairGroups:
    """Pairs in groups of one first text.

    Groups come in the order of a hash of that text, so neighbours are unrelated; within a group the pairs are
    sorted by their second text. So nothing depends on the order of the file.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("")  # an empty name is SQLite's for a temporary file of its own
        self._database.executescript(
            """
            PRAGMA journal_mode = OFF;
            CREATE TABLE pairs (key BLOB, file TEXT, line INT, raw BLOB, first TEXT, second TEXT, verdict);
            CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID;
            """
        )

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

    def read(self, rows: Iterable[Row], parse: Callable[[Row], Pair], report: ErrorReport) -> None:
        """Takes in all rows. What `parse` refuses, or what was there before, is refused at once.

        The other rows stay unsettled until `settle` is called for their group.
        """
        for row in rows:
            try:
                self._add(parse(row))
            except ValidationError as error:
                report.refuse(row, RowRefused.because(error))
            except RowRefused as refused:
                report.refuse(row, refused)

    def __iter__(self) -> Iterator[list[Pair]]:
        found = self._database.execute(
            "SELECT key, file, line, raw, first, second, verdict FROM pairs ORDER BY key, second"
        )
        for _, members in itertools.groupby(found, key=lambda columns: columns[0]):
            yield [
                Pair(Row(file, line, raw), first, second, verdict)
                for _, file, line, raw, first, second, verdict in members
            ]

    def highest_verdict(self) -> float:
        """The largest score of all pairs, 0 if there are none."""
        return self._database.execute("SELECT coalesce(max(verdict), 0) FROM pairs").fetchone()[0]

    def _add(self, pair: Pair) -> None:
        key, digest = _digest(pair.first), _digest(pair.first, pair.second)
        if not self._database.execute("INSERT OR IGNORE INTO seen VALUES (?)", [digest]).rowcount:
            raise RowRefused("row", "duplicate_pair", "The same two texts occur in an earlier row")
        row = pair.row
        self._database.execute(
            "INSERT INTO pairs VALUES (?, ?, ?, ?, ?, ?, ?)",
            [key, row.file, row.line, row.raw, pair.first, pair.second, pair.verdict],
        )


def settle(group: Sequence[Pair], make: Callable[[], list[Record]], report: ErrorReport) -> list[Record]:
    """The records that `make` builds from a group; if it refuses, all rows of the group are refused."""
    try:
        records = make()
    except ValidationError as error:
        refused = RowRefused.because(error)
    except RowRefused as refusal:
        refused = refusal
    else:
        report.accepted += len(group)
        return records
    for pair in group:
        report.refuse(pair.row, refused)
    return []


def _digest(*texts: str) -> bytes:
    return hashlib.blake2b("\0".join(texts).encode("utf-8"), digest_size=16).digest()
