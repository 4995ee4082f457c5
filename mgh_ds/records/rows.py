"""What becomes of a data set's rows: accepted, or refused with file, line, field and reason, and counted."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, TextIO, TypeVar

from pydantic import ValidationError

from mgh_ds.common.errors import MghError
from mgh_ds.records.schema import SELF_EXPLAINING

OnError = Literal["skip", "stop"]
K = TypeVar("K")

RAW_CHARS = 200
MAX_REASONS = 1_000


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file before it is a record. `line` counts from 1, `raw` is its beginning, for reports.

    Values are not `typed` where the file knows texts alone: there "4.5" may be a number.
    """

    file: str
    line: int
    raw: bytes
    values: dict[str, Any] = field(default_factory=dict)
    typed: bool = True

    def place(self, beside: "Row") -> str:
        """Where the row stands, for a reader who knows where `beside` does."""
        return f"line {self.line}" if self.file == beside.file else f"{self.file}, line {self.line}"


@dataclass(frozen=True, slots=True)
class RowError:
    """A refused row: where it stands, which field is wrong and why, and its beginning as a repr."""

    file: str
    line: int
    field: str
    reason: str
    raw: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}, field '{self.field}': {self.reason}"


class RowRefused(Exception):
    """Raised while a row is parsed. `kind` is a short stable word to count by, `reason` is for people."""

    def __init__(self, field: str, kind: str, reason: str):
        super().__init__(reason)
        self.field, self.kind, self.reason = printable(field), kind, printable(reason)

    @classmethod
    def because(cls, error: ValidationError, within: str = "") -> "RowRefused":
        """The first of pydantic's complaints; `within` names the field when a lone value was validated."""
        problems = error.errors(include_url=False, include_context=False)
        first = problems[0]
        path = ".".join(str(part) for part in ([within] if within else []) + list(first["loc"]))
        reason = first["msg"]
        if first["type"] not in SELF_EXPLAINING:
            reason += f" (found {describe(first['input'])})"
        if len(problems) > 1:
            reason += f"; {len(problems) - 1} more wrong in this row"
        return cls(path or "row", first["type"], reason)


def contradiction(reason: str) -> RowRefused:
    """The refusal of a row which says another thing than others do of the same texts."""
    return RowRefused("row", "contradiction", reason)


class ErrorReport:
    """The ledger of a data set's rows: what was read, accepted and refused, and why.

    Once the rows are all read, `rows_read == accepted + rejected`. With `on_error="stop"` the first refusal
    raises MghError. Refusals are written to `rejects`, one JSON object a line; memory keeps their counts by
    field and kind, and the first of each. Blank lines are no rows and are counted apart; keys that a format
    has no use for are counted by name; rows that list more negatives than are kept are `shortened`.
    """

    def __init__(self, on_error: OnError = "skip", rejects: TextIO | None = None):
        if on_error not in ("skip", "stop"):
            raise MghError(f"on_error is {on_error!r}: use 'skip' (refuse bad rows and go on) or 'stop'")
        self.on_error = on_error
        self.rows_read = 0
        self.accepted = 0
        self.rejected = 0
        self.blank_lines = 0
        self.shortened = 0
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.ignored_keys: Counter[str] = Counter()
        self.not_read: dict[str, str] = {}  # files of the data's folder, and what each is
        self.examples: dict[tuple[str, str], RowError] = {}
        self._rejects = rejects

    def refuse(self, row: Row, refused: RowRefused) -> None:
        """Counts one row as refused. Raises MghError if the report was told to stop."""
        error = RowError(row.file, row.line, refused.field, refused.reason, repr(row.raw)[:RAW_CHARS])
        if self.on_error == "stop":
            raise MghError(f"{error}. Mend it, or leave such rows out: mgh-ds data convert --on-error skip")
        self.rejected += 1
        any_place = re.sub(
            r"\.\d+", ".*", error.field
        )  # negatives.3.text is one reason with negatives.5.text
        reason = _count(self.reasons, (any_place, refused.kind), others=("(others)", "various"))
        self.examples.setdefault(reason, error)
        if self._rejects is not None:
            self._rejects.write(json.dumps(asdict(error)) + "\n")

    def ignore(self, keys: Iterable[str], rows: int = 1) -> None:
        """Notes keys of as many rows that their format does not use."""
        for key in keys:
            _count(self.ignored_keys, printable(key), others="(others)", times=rows)

    def check_balance(self) -> None:
        """Raises RuntimeError if a row was lost: that would be a defect of a converter, not of the data."""
        if self.rows_read != self.accepted + self.rejected:
            raise RuntimeError(f"{self.rows_read} rows, {self.accepted} accepted, {self.rejected} refused")

    def refuse_if_empty(self, what: object) -> None:
        """Raises MghError if no row was accepted; `what` names the data."""
        if self.accepted:
            return
        if not self.rejected:
            raise MghError(f"{what} is empty: give data with at least one row")
        first = next(iter(self.examples.values()))
        raise MghError(f"{what} holds no usable row: all {self.rejected:,} are refused. First: {first}")

    def as_dict(self) -> dict[str, Any]:
        """The counts as plain JSON values, the commonest reasons first."""
        return {
            "rows_read": self.rows_read,
            "accepted": self.accepted,
            "rejected": self.rejected,
            "blank_lines": self.blank_lines,
            "reasons": [
                {"field": name, "kind": kind, "rows": count}
                for (name, kind), count in self.reasons.most_common()
            ],
            "ignored_keys": dict(self.ignored_keys.most_common()),
            **({"shortened": self.shortened} if self.shortened else {}),
            **({"not_read": self.not_read} if self.not_read else {}),
        }


class FirstRefusal(ErrorReport):
    """Ends at the first row that cannot be read: for data that must be whole, and are no records."""

    def refuse(self, row: Row, refused: RowRefused) -> NoReturn:
        raise MghError(f"{row.file}, line {row.line}: {refused.reason}")


def file_name(path: Path) -> str:
    """The path as text; bytes in it that are not UTF-8 become question marks."""
    return str(path).encode("utf-8", "replace").decode("utf-8")


def printable(text: str, limit: int = 300) -> str:
    """Text from the data, fit for any terminal or file: one line of printable characters, cut at `limit`."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[:limit])
    return "".join(shown)[:limit]


def describe(value: Any) -> str:
    """What a refused value is, without quoting more of it than helps."""
    match value:
        case None | bool() | int() | float():
            return json.dumps(value)[:40]
        case str():
            return f"'{value}'" if 0 < len(value) <= 40 else f"a string of {len(value):,} characters"
        case list():
            return f"a list of {len(value):,}"
        case dict():
            return f"an object with {len(value):,} keys"
        case _:
            return f"a value of type {type(value).__name__}"


def _count(counter: Counter[K], key: K, others: K, times: int = 1) -> K:
    """Counts `key`, or `others` once there are many: keys come from the data, so memory needs a bound."""
    key = key if key in counter or len(counter) < MAX_REASONS else others
    counter[key] += times
    return key
