"""Rows that say of a text, under the same query, that it is right and that it is wrong.

Which of them is to be believed nobody knows, so none of them is, wherever in the data they stand. All rows
therefore wait in a temporary database until the last is read, and come in their order.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from pydantic import TypeAdapter

from mgh_ds.records.convert.scratch import ScratchDatabase
from mgh_ds.records.reader import Parse, parsed_rows
from mgh_ds.records.rows import ErrorReport, Row, contradiction
from mgh_ds.records.schema import Record

_RECORDS = TypeAdapter(list[Record])


def parse_consistent_rows(rows: Iterable[Row], parse: Parse, report: ErrorReport) -> Iterator[Record]:
    """As `parse_rows`, but also refuses the rows that contradict each other: one's positive is a negative of
    the other, for the same query under the same instruction."""
    with _Verdicts() as verdicts:
        for row, records in parsed_rows(rows, parse, report, verdicts.witness):
            verdicts.add(row, records)
        verdicts.compare()
        for row, records, reason in verdicts:
            if reason:
                report.refuse(row, contradiction(reason))
            else:
                report.accepted += 1
                yield from records


class _Verdicts(ScratchDatabase):
    """Rows with their records, and what each says of which text."""

    def __init__(self) -> None:
        super().__init__(
            """
            CREATE TABLE rows (
                number INTEGER PRIMARY KEY, file TEXT, line INT, raw BLOB, records BLOB, witness INT
            );
            CREATE TABLE verdicts (text BLOB, positive INT, number INT);
            CREATE TABLE disputed (text BLOB PRIMARY KEY, positive INT, negative INT) WITHOUT ROWID;
            CREATE TABLE refused (number INTEGER PRIMARY KEY, positive INT, other INT);
            """
        )

    def witness(self, row: Row, records: Sequence[Record]) -> None:
        """A row that was refused for its id: it is none of those that come, but what it says counts."""
        self.add(row, records, witness=True)

    def add(self, row: Row, records: Sequence[Record], *, witness: bool = False) -> None:
        number = self._database.execute(
            "INSERT INTO rows (file, line, raw, records, witness) VALUES (?, ?, ?, ?, ?)",
            [row.file, row.line, row.raw, _RECORDS.dump_json(list(records)), witness],
        ).lastrowid
        said = {_digest(record, record.positive): True for record in records}
        said |= {_digest(record, each.text): False for record in records for each in record.negatives}
        self._database.executemany(
            "INSERT INTO verdicts VALUES (?, ?, ?)",
            [(digest, positive, number) for digest, positive in said.items()],
        )

    def compare(self) -> None:
        """Finds the rows that contradict others, and for each the first of those."""
        self._database.executescript(
            """
            INSERT INTO disputed
                SELECT text, min(iif(positive, number, NULL)), min(iif(positive, NULL, number))
                FROM verdicts GROUP BY text HAVING min(positive) <> max(positive);
            INSERT OR IGNORE INTO refused
                SELECT said.number, said.positive, iif(said.positive, disputed.negative, disputed.positive)
                FROM verdicts AS said CROSS JOIN disputed USING (text);
            """
        )

    def __iter__(self) -> Iterator[tuple[Row, list[Record], str]]:
        """Each row with its records and, where it contradicts another, the reason for refusing it."""
        found = self._database.execute(
            """
            SELECT rows.file, rows.line, rows.raw, rows.records, refused.positive, other.file, other.line
            FROM rows
            LEFT JOIN refused USING (number)
            LEFT JOIN rows AS other ON other.number = refused.other
            WHERE NOT rows.witness
            ORDER BY rows.number
            """
        )
        for file, line, raw, records, positive, other_file, other_line in found:
            row, reason = Row(file, line, raw), ""
            if other_line is not None:
                where = Row(other_file, other_line, b"").place(beside=row)
                here, there = ("positive", "negative") if positive else ("negative", "positive")
                reason = f"{where} has as a {there} of the same query what is a {here} here: neither counts"
            yield row, _RECORDS.validate_json(records), reason


def _digest(record: Record, text: str) -> bytes:
    """Of the text as an answer to the record's query."""
    asked = "\0".join([record.task.instruction, record.query, text])
    return hashlib.blake2b(asked.encode("utf-8"), digest_size=16).digest()
