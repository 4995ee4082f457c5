"""MGH JSONL, the project's own format: every line is a record as `records.schema` defines it.

In a table, whose columns are the same in all rows, `source` is a list of `key` and `value`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from mgh_ds.common.errors import MghError
from mgh_ds.records.convert.settings import Settings
from mgh_ds.records.reader import parse_rows
from mgh_ds.records.rows import ErrorReport, Row, RowRefused
from mgh_ds.records.schema import Record


def records(rows: Iterable[Row], settings: Settings, report: ErrorReport) -> Iterator[Record]:
    """The rows themselves. Raises MghError if a setting is given: these rows say all of it themselves."""
    if settings != Settings():
        raise MghError(
            "MGH rows bring their own dataset, instruction, subtype and language: leave these options out"
        )
    return parse_rows(rows, _parse, report)


def _parse(row: Row) -> list[Record]:
    source = row.values.get("source")
    values = row.values | {"source": _joined(source)} if isinstance(source, list) else row.values
    return [Record.model_validate(values)]


def _joined(pairs: list[Any]) -> dict[Any, Any]:
    """Raises RowRefused for what is no list of keys that differ and their values."""
    if not all(isinstance(pair, dict) and pair.keys() == {"key", "value"} for pair in pairs):
        raise RowRefused("source", "dict_type", "Source should be an object, or a list of key and value")
    joined = {pair["key"]: pair["value"] for pair in pairs if isinstance(pair["key"], str)}
    if len(joined) < len(pairs):
        raise RowRefused("source", "duplicate_key", "Keys of source should be texts, and differ")
    return joined
