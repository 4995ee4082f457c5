"""The reader loses no row: each is accepted, or refused with file, line, field and reason."""

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgh_ds.common.errors import MghError
from mgh_ds.records import json_rows
from mgh_ds.records.reader import read_jsonl, read_records
from mgh_ds.records.rows import MAX_REASONS, ErrorReport, Row, RowRefused, printable
from mgh_ds.records.schema import Record
from mgh_ds.records.streams import FOREIGN, GZIP, MARKS
from tests.records.examples import make_records, record_values, records, write_jsonl

VALID = json.dumps(record_values()).encode()
MARKED = (*FOREIGN, *MARKS, GZIP)  # files of other kinds and encodings begin like this
# Hypothesis calls a test many times with one temporary folder; every call overwrites the one file it uses.
with_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def read(path: Path) -> tuple[list[Record], ErrorReport, list[dict[str, Any]]]:
    """The records of a file, the report, and the refusals as they were written."""
    rejects = io.StringIO()
    report = ErrorReport("skip", rejects)
    found = list(read_records(path, report))
    report.check_balance()
    return found, report, [json.loads(line) for line in rejects.getvalue().splitlines()]


@with_folder
@given(st.lists(records(), max_size=5, unique_by=lambda record: record.id))
def test_records_survive_a_file(tmp_path: Path, given_records: list[Record]):
    path = write_jsonl(tmp_path / "a.jsonl", [record.model_dump() for record in given_records])
    found, report, rejected = read(path)
    assert found == given_records
    assert (report.accepted, report.rejected, rejected) == (len(given_records), 0, [])


BAD_LINES = [
    (b'{"id": "\xff"}', "row", "not_utf8"),
    (VALID[:-20], "row", "not_json"),
    (b"{'id': 1}", "row", "not_json"),
    (VALID + b" {}", "row", "not_json"),
    (b"null", "row", "not_an_object"),
    (b'["a", "list"]', "row", "not_an_object"),
    (b'"text"', "row", "not_an_object"),
    (b'{"id": NaN}', "row", "not_finite"),
    (b'{"id": -Infinity}', "row", "not_finite"),
    (b"9" * 5_000, "row", "not_json"),
    (b'{"id": "a", "id": "b"}', "id", "duplicate_key"),
    (b'{"task": {"kind": 1, "kind": 2}}', "kind", "duplicate_key"),
    (b"[" * 100_000, "row", "nested_too_deep"),
    (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "row", "nested_too_deep"),
    (b'{"query": ' + b"[" * 500 + b"]" * 500 + b"}", "id", "missing"),
    (b"\xef\xbb\xbf" + VALID, "row", "not_json"),
    (VALID.replace(b'"level": 3', b'"level": 9'), "negatives.2.level", "less_than_equal"),
    (VALID.replace(b"What is", b"What\\u0000is"), "query", "nul_character"),
    (VALID.replace(b"What is", b"What\\ud800is"), "query", "string_unicode"),
    (VALID.replace(b'"language": "en"', b'"\\ud800": "en"'), "row", "string_unicode"),
]


@pytest.mark.parametrize(("line", "field", "kind"), BAD_LINES)
def test_a_bad_line_is_refused_and_the_next_one_read(tmp_path: Path, line: bytes, field: str, kind: str):
    path = tmp_path / "a.jsonl"
    after = json.dumps(record_values(1)).encode()
    path.write_bytes(b"\n".join([VALID, line, after]))
    found, report, rejected = read(path)
    assert [record.id for record in found] == ["record-0", "record-1"]
    assert (report.rows_read, report.accepted, report.rejected) == (3, 2, 1)
    [refusal] = rejected
    assert (refusal["file"], refusal["line"], refusal["field"]) == (str(path), 2, field)
    assert refusal["reason"]
    assert len(refusal["raw"]) <= 200
    [(_, counted_kind)] = report.reasons
    assert counted_kind == kind


def test_ids_that_occur_twice_are_refused(tmp_path: Path):
    rows = [record_values(0), record_values(1), record_values(0, query="another query")]
    found, _, [refusal] = read(write_jsonl(tmp_path / "a.jsonl", rows))
    assert [record.query for record in found] == [row["query"] for row in rows[:2]]
    assert (refusal["line"], refusal["field"]) == (3, "id")
    assert "record-0" in refusal["reason"]


def test_byte_order_mark_line_ends_and_blank_lines_are_no_errors(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    second, third = (json.dumps(record_values(number)).encode() for number in (1, 2))
    path.write_bytes(b"\xef\xbb\xbf" + VALID + b"\r\n\n" + second + b"\n  \t\n" + third)
    found, report, _ = read(path)
    assert [record.id for record in found] == ["record-0", "record-1", "record-2"]
    assert (report.rows_read, report.blank_lines) == (3, 2)


def test_a_huge_line_is_passed_over_in_bounded_memory(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(VALID + b"\n")
        for _ in range(4 * json_rows.MAX_LINE_BYTES // 2**20):
            file.write(b"x" * 2**20)
        file.write(b"\n" + json.dumps(record_values(1)).encode())
    tracemalloc.start()
    found, _, [refusal] = read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [record.id for record in found] == ["record-0", "record-1"]
    assert (refusal["line"], refusal["field"]) == (2, "row")
    assert "longer than" in refusal["reason"]
    assert peak < 3 * json_rows.MAX_LINE_BYTES  # the line alone has 4 times the limit


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_the_line_limit_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: int):
    monkeypatch.setattr(json_rows, "MAX_LINE_BYTES", len(VALID))
    path = tmp_path / "a.jsonl"
    line = VALID + b" " * extra if extra >= 0 else VALID.replace(b"examples", b"example")
    path.write_bytes(line + b"\n" + VALID.replace(b"record-0", b"record-1"))
    found, report, _ = read(path)
    assert report.rejected == (1 if extra == 1 else 0)
    assert found[-1].id == "record-1"


def test_stop_names_the_first_bad_row(tmp_path: Path):
    rows = [record_values(0), record_values(1, query=""), record_values(2, positive=None)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(MghError, match=rf"{path}, line 2, field 'query': .*at least 1 character"):
        list(read_records(path))


def test_an_unknown_policy_is_refused():
    with pytest.raises(MghError, match="'skip'"):
        ErrorReport("ignore")  # type: ignore[arg-type]


def test_a_file_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(MghError, match="does not exist"):
        list(read_records(tmp_path / "missing.jsonl"))
    with pytest.raises(MghError, match="is a folder"):
        list(read_records(tmp_path))


def test_a_row_of_several_records_is_accepted_whole_or_not_at_all(tmp_path: Path):
    first, second, third = make_records(3)
    path = write_jsonl(tmp_path / "a.jsonl", [{"n": 0}, {"n": 1}, {"n": 2}])
    made = {0: [first], 1: [second, first], 2: [second, third]}
    report = ErrorReport()
    found = list(read_jsonl(path, lambda row: made[row.values["n"]], report))
    assert found == [first, second, third]  # row 1 brought `first` again, so its `second` must not count
    assert (report.accepted, report.rejected) == (2, 1)


def test_progress_adds_up_to_the_file(tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", [record_values(number) for number in range(3)] + [None])
    steps: list[int] = []
    list(read_records(path, ErrorReport(), steps.append))
    assert sum(steps) == path.stat().st_size


@with_folder
@given(st.binary(max_size=300).filter(lambda content: not content.startswith(MARKED)))
def test_any_bytes_leave_the_books_balanced(tmp_path: Path, content: bytes):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    found, report, rejected = read(path)
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    assert report.rows_read == sum(not line.isspace() and line != b"" for line in lines)
    assert len(found) == report.accepted == 0
    assert len(rejected) == report.rejected


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@with_folder
@given(st.sampled_from([*record_values(), "another key"]), JSON_VALUES)
def test_any_json_value_in_any_field_is_accepted_only_if_valid(tmp_path: Path, key: str, value: Any):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record_values() | {key: value}))
    found, _, rejected = read(path)
    assert (len(found), len(rejected)) in ((1, 0), (0, 1))
    if found:
        text_field = key in ("id", "query", "positive", "language") and isinstance(value, str)
        assert text_field or (key == "negatives" and value == [])
        assert found[0] == Record.model_validate(json.loads(path.read_text()))


def test_reasons_in_memory_are_bounded():
    report = ErrorReport()
    for number in range(3 * MAX_REASONS):
        report.refuse(Row("f", number, b""), RowRefused(f"key {number}", "extra_forbidden", "no"))
    assert report.rejected == sum(report.reasons.values()) == 3 * MAX_REASONS
    assert len(report.reasons) == len(report.examples) == MAX_REASONS + 1


@given(st.text(st.characters()))
def test_printable_text_can_go_anywhere(text: str):
    shown = printable(text)
    shown.encode("utf-8")
    assert shown.isprintable()
    assert len(shown) <= 300
