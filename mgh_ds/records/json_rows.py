"""Rows of JSON: an object a line, or the objects of one array. What is no object is refused with its place.

Memory holds one row at a time.
"""

import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from mgh_ds.common.errors import MghError
from mgh_ds.records.rows import RAW_CHARS, ErrorReport, Row, RowRefused, describe, file_name
from mgh_ds.records.streams import HEAD, Progress, open_utf8

MAX_LINE_BYTES = 16 * 2**20
ARRAY_BLOCK = 2**16  # characters of an array read at once

_DECODER = json.JSONDecoder()
_NO_SPACE = re.compile(r"[^ \t\n\r]")


def read_lines(path: Path, report: ErrorReport, progress: Progress) -> Iterator[Row]:
    """The objects of a file that has one a line; blank lines are counted apart."""
    with open_utf8(path, progress) as file:
        yield from _rows_of_lines(path, file, report)


def read_json(path: Path, report: ErrorReport, progress: Progress) -> Iterator[Row]:
    """The objects of an array, whose places count as lines, or of a file that has one a line.

    Raises MghError for a file that is one object, and for an array that ends or goes on as none does: where
    its next element would begin, nobody knows.
    """
    cause = one_object(path)
    if cause:
        raise MghError(f"{path} {cause}")
    with open_utf8(path, progress) as file:
        is_array = file.peek(HEAD).lstrip()[:1] == b"["
        yield from (_rows_of_array if is_array else _rows_of_lines)(path, file, report)


def one_object(path: Path) -> str | None:
    """Why a .json file holds no rows, if it is one object that takes several lines."""
    with open_utf8(path) as file:
        line = file.readline(MAX_LINE_BYTES)
        if not line.lstrip().startswith(b"{") or not file.read(1):
            return None
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            return "is one JSON object: rows are an array of objects, or an object a line"
    return None


def decode_object(line: bytes) -> dict[str, Any]:
    """One JSON object from bytes of UTF-8. Raises RowRefused for anything else."""
    try:
        value = json.loads(
            line.decode("utf-8"),
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise not_utf8(error) from None
    except RecursionError:
        raise RowRefused("row", "nested_too_deep", "JSON is nested too deep") from None
    except ValueError as error:  # JSONDecodeError, and integers too long for Python
        raise RowRefused("row", "not_json", f"Row is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise RowRefused("row", "not_an_object", f"Row should be a JSON object (found {describe(value)})")
    return value


def not_utf8(error: UnicodeDecodeError) -> RowRefused:
    """The refusal of a row that is not UTF-8."""
    return RowRefused("row", "not_utf8", f"Row is not valid UTF-8: {error.reason} at byte {error.start}")


def _rows_of_lines(path: Path, file: BinaryIO, report: ErrorReport) -> Iterator[Row]:
    name = file_name(path)
    for number in itertools.count(1):
        line = file.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        too_long = len(line) > MAX_LINE_BYTES and not line.endswith(b"\n")
        if too_long:
            _skip_line(file)
        elif line.isspace():
            report.blank_lines += 1
            continue
        report.rows_read += 1
        try:
            if too_long:
                raise RowRefused("row", "line_too_long", f"Line is longer than {MAX_LINE_BYTES:,} bytes")
            values = decode_object(line)
        except RowRefused as refused:
            report.refuse(Row(name, number, line[:RAW_CHARS]), refused)
        else:
            yield Row(name, number, line[:RAW_CHARS], values)


def _skip_line(file: BinaryIO) -> None:
    """Reads to the end of a line in pieces."""
    while piece := file.readline(2**16):
        if piece.endswith(b"\n"):
            return


def _rows_of_array(path: Path, file: BinaryIO, report: ErrorReport) -> Iterator[Row]:
    name = file_name(path)
    for number, text in enumerate(_elements(path, file), start=1):
        raw = text.encode("utf-8", "surrogateescape")
        report.rows_read += 1
        try:
            values = decode_object(raw)
        except RowRefused as refused:
            report.refuse(Row(name, number, raw[:RAW_CHARS]), refused)
        else:
            yield Row(name, number, raw[:RAW_CHARS], values)


def _elements(path: Path, file: BinaryIO) -> Iterator[str]:
    """The elements of an array, as they are written."""
    text = _Text(io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline=""))
    count = 0

    def broken(problem: str) -> MghError:
        return MghError(f"{path} is not a valid JSON array: {problem} after {count:,} rows")

    text.take("[")
    if text.take("]"):
        return
    while True:
        element = text.element()
        if element is None:
            raise broken("what follows is no JSON, or it ends")
        yield element
        count += 1
        if text.take("]"):
            break
        if not text.take(","):
            raise broken("a comma is missing")
    if text.next():
        raise broken("it goes on after its end")


class _Text:
    """A text of which a little is in memory: what was read and not passed over yet."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        self._file, self._text, self._at = file, "", 0

    def next(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            found = _NO_SPACE.search(self._text, self._at)
            self._at = found.start() if found else len(self._text)
            if found or not self._read(ARRAY_BLOCK):
                return found[0] if found else ""

    def take(self, character: str) -> bool:
        """Passes over `character` if it comes next."""
        found = self.next() == character
        self._at += found
        return found

    def element(self) -> str | None:
        """Passes over the JSON value that comes next; None if there is none, or one without an end."""
        self.next()
        while True:
            try:
                _, end = _DECODER.raw_decode(self._text, self._at)
            except (ValueError, RecursionError):
                end = 0
            # What ends where the text in memory ends may go on, as a number does.
            if 0 < end < len(self._text):
                element, self._at = self._text[self._at : end], end
                return element
            # Twice as much as there is, lest a long element be parsed again and again.
            size = len(self._text) - self._at
            if size > MAX_LINE_BYTES or not self._read(max(ARRAY_BLOCK, size)):
                return None

    def _read(self, size: int) -> bool:
        piece = self._file.read(size)
        self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise RowRefused(twice, "duplicate_key", "Key occurs twice in one object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise RowRefused("row", "not_finite", f"{name} is not valid JSON")
