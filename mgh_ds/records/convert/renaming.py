"""Columns by other names: the user says which column of the data a format's own column is."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from mgh_ds.common.errors import MghError
from mgh_ds.records.rows import ErrorReport, Row
from mgh_ds.records.tables import Reads

PATIENCE = 1_000  # rows that may lack a column before it is taken for a slip of the pen


def parse_columns(given: Iterable[str]) -> dict[str, str]:
    """`query=question` as {"query": "question"}: the format's column, then the data's. Raises MghError."""
    columns: dict[str, str] = {}
    for each in given:
        name, equals, source = each.partition("=")
        if not (name and equals and source):
            raise MghError(f"--columns takes NAME=COLUMN, such as query=question, found {each!r}")
        if name in columns:
            raise MghError(f"--columns names '{name}' twice: one column of the data can be it")
        columns[name] = source
    return columns


class Renaming:
    """Rows under the names of a format, whose columns are called otherwise in the data.

    A column of the data may be several of the format's. One that has a format's name already, and for which
    another is named, is not used. Raises MghError for a name that the format does not use.
    """

    def __init__(self, columns: Mapping[str, str], format: str, reads: Reads) -> None:
        self._columns = dict(columns)
        self._reads = reads
        for name in self._columns:
            if not reads(name):
                raise MghError(
                    f"--columns: format '{format}' uses no '{name}'; docs/records.md says what it uses"
                )

    def reads(self, column: str) -> bool:
        """Whether a column of the data is used."""
        return column in self._columns.values() or (column not in self._columns and self._reads(column))

    def renamed(self, rows: Iterable[Row], report: ErrorReport) -> Iterator[Row]:
        """The rows with the format's names. Raises MghError once a column that was named is in none of the
        first rows."""
        if not self._columns:
            yield from rows
            return
        missing = set(self._columns.values())
        waiting: list[Row] = []  # until all columns have been seen
        for number, row in enumerate(rows, start=1):
            if missing:
                waiting.append(row)
                missing -= row.values.keys()
                if missing and number < PATIENCE:
                    continue
                self._refuse(missing, waiting, report)
                yield from (self._of(each, report) for each in waiting)
                waiting = []
            else:
                yield self._of(row, report)
        if waiting:
            self._refuse(missing, waiting, report)

    def _of(self, row: Row, report: ErrorReport) -> Row:
        sources = set(self._columns.values())
        kept = {key: value for key, value in row.values.items() if key not in sources}
        replaced = kept.keys() & self._columns.keys()
        report.ignore(replaced)
        kept = {key: value for key, value in kept.items() if key not in replaced}
        found = {name: row.values[source] for name, source in self._columns.items() if source in row.values}
        return replace(row, values=kept | found)

    def _refuse(self, missing: set[str], rows: list[Row], report: ErrorReport) -> None:
        if missing:
            has = sorted({*report.ignored_keys, *(key for row in rows for key in row.values)})
            raise MghError(
                f"--columns: none of the first {len(rows):,} rows of {rows[0].file} has a column "
                f"'{min(missing)}'; there are {', '.join(has[:20]) or 'none'}"
            )
