"""MGH JSONL, the project's own format: every line is a record as `records.schema` defines it."""

from collections.abc import Iterable, Iterator

from mgh_ds.common.errors import MghError
from mgh_ds.records.convert.settings import Settings
from mgh_ds.records.reader import parse_record, parse_rows
from mgh_ds.records.rows import ErrorReport, Row
from mgh_ds.records.schema import Record


def records(rows: Iterable[Row], settings: Settings, report: ErrorReport) -> Iterator[Record]:
    """The rows themselves. Raises MghError if a setting is given: these rows say all of it themselves."""
    if settings != Settings():
        raise MghError(
            "MGH rows bring their own dataset, instruction, subtype, language and columns: "
            "leave these options out"
        )
    return parse_rows(rows, parse_record, report)
