"""What `mgh-ds data validate | convert | stats` print, and when they fail."""

import json
from pathlib import Path
from typing import Any

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.records.commands import convert_command, stats_command, validate_command
from mgh_ds.records.convert import REJECTED, convert
from mgh_ds.records.stats import stats
from mgh_ds.records.store import Store
from mgh_ds.records.validate import validate
from tests.records.examples import record_values, write_jsonl


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


def triples(count: int) -> list[dict[str, Any]]:
    return [{"query": f"q{n}", "positive": f"p{n}", "negative": f"n{n}"} for n in range(count)]


def test_validate_accepts_sound_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write_jsonl(tmp_path / "own.jsonl", [record_values(number) for number in range(3)])
    validate_command(path)
    assert "3 rows read, 3 accepted, 0 refused" in capsys.readouterr().out
    convert(path, tmp_path / "store", "mgh")
    validate_command(tmp_path / "store")
    assert "3 rows read, 3 accepted, 0 refused" in capsys.readouterr().out


def test_validate_shows_what_is_wrong_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    # The data's own brackets and escapes must neither be read as markup nor reach the terminal.
    bad = record_values(1) | {"[/red]\x1b[2J\ud800": 1}
    path = tmp_path / "own.jsonl"
    path.write_text(f"{json.dumps(record_values(0))}\n{json.dumps(bad)}\n\n{json.dumps(record_values(0))}\n")
    with pytest.raises(MghError, match=r"2 of 3 rows .* are not usable"):
        validate_command(path)
    out = capsys.readouterr().out
    assert "3 rows read, 1 accepted, 2 refused, 1 blank lines" in out
    assert "own.jsonl, line 4, field 'id': Id 'record-0' occurs earlier in this data" in out
    assert "\x1b[2J" not in out


def test_validate_checks_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    negatives = [{"text": "n", "level": 4, "score": "high"}]
    rows = [record_values(0, score=0.5), record_values(1, score=2e9), record_values(2, negatives=negatives)]
    path = write_jsonl(tmp_path / "own.jsonl", [*rows, record_values(3, score=float("nan"))])
    with pytest.raises(MghError, match=r"3 of 4 rows .* are not usable"):
        validate_command(path)
    out = capsys.readouterr().out
    assert (
        "line 2, field 'score': Input should be less than or equal to 1000000000 (found 2000000000.0)" in out
    )
    assert "line 3, field 'negatives.0.score': Input should be a valid number (found 'high')" in out
    assert "line 4, field 'row': NaN is not valid JSON" in out


def test_validate_of_other_formats_needs_no_settings(tmp_path: Path):
    path = write_jsonl(tmp_path / "any.jsonl", [*triples(2), {"query": "q"}])
    report = validate(path, "llm2vec")
    assert (report.accepted, report.rejected) == (2, 1)
    with pytest.raises(MghError, match="line 3, field 'positive'"):
        validate(path, "llm2vec", on_error="stop")


def test_validate_finds_a_changed_byte_in_a_store(tmp_path: Path):
    path = write_jsonl(tmp_path / "own.jsonl", [record_values(number) for number in range(3)])
    convert(path, tmp_path / "store", "mgh")
    part = tmp_path / "store" / "part-00000.arrow"
    content = part.read_bytes()
    part.write_bytes(content.replace(b"What is fact 1?", b"What is fact 7?"))
    with pytest.raises(MghError, match=r"part-00000.arrow is damaged: its sha256 differs"):
        validate_command(tmp_path / "store")


@pytest.mark.parametrize("command", [validate_command, stats_command])
def test_nothing_to_look_at_is_an_error(tmp_path: Path, command: Any):
    with pytest.raises(MghError, match="does not exist"):
        command(tmp_path / "missing.jsonl")
    with pytest.raises(MghError, match="is empty"):
        command(write_jsonl(tmp_path / "empty.jsonl", []))
    with pytest.raises(MghError, match="holds no usable row"):
        command(write_jsonl(tmp_path / "other.jsonl", triples(2)))


def test_convert_says_what_became_of_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write_jsonl(
        tmp_path / "any.jsonl", [*triples(2), {"query": "q", "title": "t"}, triples(1)[0] | {"title": "t"}]
    )
    output = tmp_path / "store"
    convert_command(
        path, output, "llm2vec", dataset="mine", instruction="Answer", subtype="short-short", language="fr"
    )
    out = capsys.readouterr().out
    assert "4 rows read, 2 accepted, 2 refused" in out
    assert "Keys that this format does not use: title (1 rows)" in out
    assert "2 records in" in out
    assert str(output / REJECTED) in out
    [record, _] = list(Store.open(output))
    assert (record.task.instruction, record.task.subtype, record.language) == ("Answer", "short-short", "fr")
    with pytest.raises(MghError, match="exists already"):
        convert_command(path, output, "llm2vec", instruction="Answer")


MIXED = [
    record_values(0, score=1),
    record_values(
        1, negatives=[{"text": "n" * 100, "level": None}, {"text": "n", "level": 4}], language="de"
    ),
    record_values(2, negatives=[], query="q" * 50, source={"dataset": "other"}, score=0.5),
]


@pytest.mark.parametrize("as_store", [False, True])
def test_stats(tmp_path: Path, capsys: pytest.CaptureFixture[str], as_store: bool):
    path = write_jsonl(tmp_path / "own.jsonl", [*MIXED, {"id": "bad"}])
    if as_store:
        path = convert(path, tmp_path / "store", "mgh").path
    found = stats(path)
    assert found["rejected"] == (0 if as_store else 1)
    assert found["records"] == 3
    assert found["subtypes"] == {"short-long": 3}
    assert found["languages"] == {"en": 2, "de": 1}
    assert found["datasets"] == {"examples": 2, "other": 1}
    assert found["levels"] == {
        "1": {"negatives": 1, "records": 1},
        "2": {"negatives": 1, "records": 1},
        "3": {"negatives": 1, "records": 1},
        "4": {"negatives": 2, "records": 2},
        "ungraded": {"negatives": 1, "records": 1},
    }
    assert found["without_negatives"] == 1
    assert found["scores"] == {"positive": 2, "whole": 1}
    assert found["chars"]["query"] == {"p5": 15, "p50": 15, "p95": 50, "p100": 50}
    assert found["chars"]["negative"]["p100"] == 100
    stats_command(path)
    out = capsys.readouterr().out
    assert "3 records" in out
    assert "2 negatives in 2 records" in out
    assert "2 of the positive, 1 of all negatives too" in out
    assert ("refused rows" in out) != as_store


def test_bundled_sets_go_by_their_names(capsys: pytest.CaptureFixture[str]):
    for verb in (validate_command, stats_command):
        verb(Path("sample:held_out"))
        assert "108" in capsys.readouterr().out
