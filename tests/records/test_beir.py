"""A folder in the layout of BEIR: what `export` wrote comes back, and what others wrote is read."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgh_ds.common.errors import MghError
from mgh_ds.records.convert import convert, open_input, records_of
from mgh_ds.records.convert.settings import Settings
from mgh_ds.records.export import export
from mgh_ds.records.rows import ErrorReport
from mgh_ds.records.schema import Record
from mgh_ds.records.sources import Origin
from mgh_ds.records.store import Store, StoreWriter
from tests.records.examples import records, write_jsonl


@pytest.fixture(autouse=True)
def unhurried_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def beir(folder: Path, qrels: str, split: str = "test") -> Path:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    documents = [{"_id": f"d{n}", "title": "T" if n == 1 else "", "text": f"text {n}"} for n in range(6)]
    write_jsonl(
        folder / "corpus.jsonl", [*documents, {"_id": "d1", "text": "again"}, {"_id": "d6", "text": " "}]
    )
    queries = [
        {"_id": 7, "text": "q0", "metadata": {"url": "u"}},
        {"_id": "q1", "text": "q1"},
        {"text": "q2"},
    ]
    write_jsonl(folder / "queries.jsonl", queries)
    header = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels" / f"{split}.tsv").write_text(header + qrels.replace(" ", "\t"))
    return folder


def told(record: Record) -> tuple[Any, ...]:
    negatives = sorted((n.text, n.level or 0) for n in record.negatives)
    return record.task.instruction, record.query, record.positive, negatives


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=8)
@given(st.lists(records(), min_size=1, max_size=3, unique_by=lambda record: record.id))
def test_what_export_wrote_comes_back(
    tmp_path_factory: pytest.TempPathFactory, content: list[Record]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    content = [
        record.model_copy(
            update={
                "query": f"{number} {record.query}",
                "negatives": list({n.text: n for n in record.negatives}.values()),
            }
        )
        for number, record in enumerate(content)
    ]
    with StoreWriter(folder / "store") as writer:
        for record in content:
            writer.add(record)
    export(folder / "store", folder / "beir", "beir")
    found = list(records_of(folder / "beir", "beir", Settings(), ErrorReport("stop")))
    assert sorted(map(told, found)) == sorted(map(told, content))
    assert {record.source["dataset"] for record in found} == {"beir"}


def test_what_others_wrote(tmp_path: Path) -> None:
    qrels = (
        "7 d0 2\n7 d1 1\n7 d2 0\n7 d3 -1\nq1 d0 0\n7 nowhere 1\nq9 d0 1\n7 d4 high\n7 d0 2\n7 d5 0\n7 d5 1\n"
    )
    folder = beir(tmp_path / "scifacts", qrels)
    (folder / "README.md").write_text("not data")
    summary = convert(folder, tmp_path / "store", "beir", Settings(instruction="i"))
    found = list(Store.open(summary.path))
    negatives = [("text 2", 0), ("text 3", 0)]  # -1 is no level where export has not written it
    assert sorted(map(told, found)) == [("i", "q0", "T text 1", negatives), ("i", "q0", "text 0", negatives)]
    assert {record.source["dataset"] for record in found} == {"scifacts"}
    report = summary.report
    assert report.rows_read == report.accepted + report.rejected == 8 + 3 + 11
    assert report.accepted == 6 + 2 + 4
    assert dict(report.reasons) == {
        ("_id", "duplicate_id"): 1,
        ("text", "string_too_short"): 1,
        ("_id", "missing"): 1,
        ("score", "no_positive"): 1,
        ("corpus-id", "unknown_id"): 1,
        ("query-id", "unknown_id"): 1,
        ("score", "int_parsing"): 1,
        ("row", "duplicate_pair"): 1,
        ("row", "contradiction"): 2,
    }
    notes = Store.open(summary.path).manifest.notes["conversion"]
    assert notes["files"] == ["corpus.jsonl", "queries.jsonl", "test.tsv"]
    assert notes["not_read"] == {"README.md": "has another ending"}


def test_the_split(tmp_path: Path) -> None:
    folder = beir(tmp_path / "data", "7 d0 1\n")
    beir(folder, "q1 d2 1\n", "dev")

    def queries(split: str | None) -> list[str]:
        source = open_input(Origin(folder, split=split), "beir")
        return [
            record.query for record in records_of(source, "beir", Settings(instruction="i"), ErrorReport())
        ]

    with pytest.raises(MghError, match=r"no split 'train': --split must be one of dev, test"):
        queries(None)
    assert (queries("test"), queries("dev")) == (["q0"], ["q1"])
    beir(folder, "7 d3 1\n", "train")
    assert queries(None) == ["q0"]
    source = open_input(Origin(folder), "beir")
    assert source.not_read == {"qrels/dev.tsv": "is another split", "qrels/test.tsv": "is another split"}
    (folder / "qrels" / "notes.txt").write_text("not data")
    assert open_input(Origin(folder), "beir").not_read["qrels/notes.txt"] == "has another ending"


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_file_that_is_there_twice_is_refused(tmp_path: Path, name: str) -> None:
    folder = beir(tmp_path / "data", "7 d0 1\n")
    (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    plain = Path(name).name
    with pytest.raises(MghError, match=rf"has both {plain} and {plain}\.gz: leave one of them there"):
        open_input(Origin(folder), "beir")


def test_packed_texts_are_read(tmp_path: Path) -> None:
    folder = beir(tmp_path / "data", "7 d0 1\n")
    plain = folder / "corpus.jsonl"
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    [record] = records_of(folder, "beir", Settings(instruction="i"), ErrorReport())
    assert record.positive == "text 0"


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("corpus.jsonl", "has no corpus.jsonl"),
        ("queries.jsonl", "no queries.jsonl"),
        ("qrels", "no folder qrels"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, remove: str, message: str) -> None:
    folder = beir(tmp_path / "data", "7 d0 1\n")
    (folder / remove).rename(tmp_path / remove)
    with pytest.raises(MghError, match=message):
        convert(folder, tmp_path / "store", "beir")
    with pytest.raises(MghError, match="is a file, and format 'beir' a folder"):
        convert(write_jsonl(tmp_path / "a.jsonl", [{}]), tmp_path / "store", "beir")


def test_judgements_without_a_positive_give_no_store(tmp_path: Path) -> None:
    folder = beir(tmp_path / "data", "7 d0 0\n")
    with pytest.raises(MghError, match=r"gives no record: .*"):
        convert(folder, tmp_path / "store", "beir")
    assert not (tmp_path / "store").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(st.data())
def test_any_row_is_settled(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = beir(tmp_path_factory.mktemp("any") / "data", "")
    value = st.none() | st.integers(-5, 5) | st.sampled_from(["d0", "q1", "7", "", "x"]) | st.just({"a": 1})
    columns = ["_id", "text", "title", "metadata", "query-id", "corpus-id", "score"]
    row = st.dictionaries(st.sampled_from(columns), value)
    (folder / "qrels" / "test.tsv").unlink()
    for name in ("corpus", "queries", "qrels/test"):
        with (folder / f"{name}.jsonl").open("a") as file:
            file.writelines(json.dumps(each) + "\n" for each in data.draw(st.lists(row, max_size=6)))
    report = ErrorReport()
    for record in records_of(folder, "beir", Settings(instruction="i"), report):
        assert Record.model_validate(record.model_dump()) == record
    assert report.rows_read == report.accepted + report.rejected
