"""Groups the pairs of a file by their first text, wherever in the file they stand, in bounded memory: they
wait in a temporary database."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from mgh_ds.records.convert.scratch import ScratchDatabase
from mgh_ds.records.rows import ErrorReport, Row, RowRefused, contradiction
from mgh_ds.records.schema import Record


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts and what the data set says of them: a label's name or a score. `row` tells where it stood."""

    row: Row
    first: str
    second: str
    verdict: str | float


class PairGroups(ScratchDatabase):
    """Pairs in groups of one first text.

    Groups come in the order of a hash of that text, so neighbours are unrelated; within a group the pairs are
    sorted by their second text. So nothing depends on the order of the file. Of `symmetric` pairs the two
    texts may change places: what one row says of them must be what the other says.
    """

    def __init__(self, *, symmetric: bool = False) -> None:
        self._symmetric = symmetric
        super().__init__(
            """
            CREATE TABLE pairs (key BLOB, file TEXT, line INT, raw BLOB, first TEXT, second TEXT, verdict);
            CREATE TABLE seen (digest BLOB PRIMARY KEY, pair INT, verdict) WITHOUT ROWID;
            """
        )

    def read(self, rows: Iterable[Row], parse: Callable[[Row], Pair], report: ErrorReport) -> None:
        """Takes in all rows. What `parse` refuses, or what was there before, is refused at once, and so are
        all rows that say different things of the same two texts: which one is right, nobody knows.

        The other rows stay unsettled until `settle` is called for their group.
        """
        for row in rows:
            try:
                self._add(parse(row), report)
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

    def _add(self, pair: Pair, report: ErrorReport) -> None:
        row, digest = pair.row, _digest(pair.first, pair.second)
        swapped = _digest(pair.second, pair.first) if self._symmetric else digest
        known = self._database.execute(
            "SELECT pair, digest, verdict FROM seen WHERE digest IN (?, ?)", [digest, swapped]
        ).fetchall()
        if any(number is None for number, _, _ in known):
            raise contradiction("Earlier rows contradict each other about the same two texts")
        if any(verdict != pair.verdict for _, _, verdict in known):
            self._withdraw({found: number for number, found, _ in known}, pair, report)
            return
        if any(found == digest for _, found, _ in known):
            raise RowRefused("row", "duplicate_pair", "The same two texts occur in an earlier row")
        number = self._database.execute(
            "INSERT INTO pairs VALUES (?, ?, ?, ?, ?, ?, ?)",
            [_digest(pair.first), row.file, row.line, row.raw, pair.first, pair.second, pair.verdict],
        ).lastrowid
        self._database.execute("INSERT INTO seen VALUES (?, ?, ?)", [digest, number, pair.verdict])

    def _withdraw(self, known: dict[bytes, int], pair: Pair, report: ErrorReport) -> None:
        """Refuses `pair` and those that it contradicts: by digest, the numbers that they were taken in as."""
        earlier = []
        for digest, number in known.items():
            file, line, raw, verdict = self._database.execute(
                "SELECT file, line, raw, verdict FROM pairs WHERE rowid = ?", [number]
            ).fetchone()
            earlier.append((Row(file, line, raw), verdict))
            self._database.execute("DELETE FROM pairs WHERE rowid = ?", [number])
            self._database.execute("UPDATE seen SET pair = NULL WHERE digest = ?", [digest])
        later = (pair.row, pair.verdict)
        for (row, _), (other, said) in [(later, earlier[0]), *((one, later) for one in earlier)]:
            where = other.place(beside=row)
            report.refuse(row, contradiction(f"{where} has the same two texts as {said!r}: neither counts"))


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
