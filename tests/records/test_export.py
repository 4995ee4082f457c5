"""What an export writes, read as the formats' own programs read it, and what the converters bring back."""

import csv
import json
import os
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgh_ds.common.errors import MghError
from mgh_ds.records.commands import export_command
from mgh_ds.records.convert import records_of
from mgh_ds.records.convert.settings import Settings
from mgh_ds.records.export import EXPORT_FORMATS, export
from mgh_ds.records.export import datasets as datasets_format
from mgh_ds.records.export import rows as rows_module
from mgh_ds.records.export.ids import text_id
from mgh_ds.records.export.ledger import Ledger
from mgh_ds.records.reader import read_records
from mgh_ds.records.rows import ErrorReport
from mgh_ds.records.schema import Record
from mgh_ds.records.store import StoreWriter
from tests.records.examples import make_records, record_values, records, write_jsonl

ENDINGS = {"datasets": "", "beir": ""}  # of the others, .jsonl


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture(autouse=True)
def unhurried_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here asks what a power cut leaves, and examples are many."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def write_store(path: Path, content: Iterable[Record]) -> Path:
    with StoreWriter(path) as writer:
        for record in content:
            writer.add(record)
    return path


def output_of(folder: Path, format: str, ending: str = ".jsonl") -> Path:
    return folder / f"{format}{ENDINGS.get(format, ending)}"


def exported(store: Path, format: str, ending: str = ".jsonl", **options: Any) -> tuple[Path, Ledger]:
    path = output_of(store.parent, format, ending)
    return path, export(store, path, format, replace=True, **options).ledger


def read_back(path: Path, format: str, **options: Any) -> list[Record]:
    """By the converter, which must accept every row."""
    return list(records_of(path, format, Settings(**options), ErrorReport("stop")))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def hypothetical(test: Any) -> Any:
    """Few examples, each of which goes through files."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(suppress_health_check=checks, deadline=None, max_examples=12)(test)


@st.composite
def distinct_records(draw: st.DrawFn) -> list[Record]:
    """Records that other formats, whose rows have no ids, can tell apart; in half of the cases every text has
    a score."""
    found = draw(st.lists(records(), min_size=1, max_size=3, unique_by=lambda record: record.id))
    if draw(st.booleans()):
        return [distinct(record, number) for number, record in enumerate(found)]
    score = st.floats(-10, 10)
    return [
        distinct(record, number).model_copy(
            update={
                "score": draw(score),
                "negatives": [n.model_copy(update={"score": draw(score)}) for n in once(record)],
            }
        )
        for number, record in enumerate(found)
    ]


def once(record: Record) -> list[Any]:
    return list({negative.text: negative for negative in record.negatives}.values())


def distinct(record: Record, number: int) -> Record:
    return record.model_copy(update={"query": f"{number} {record.query}", "negatives": once(record)})


@hypothetical
@given(st.lists(records(), min_size=1, max_size=3, unique_by=lambda record: record.id))
def test_own_records_come_back_whole(tmp_path_factory: pytest.TempPathFactory, content: list[Record]):
    store = write_store(tmp_path_factory.mktemp("any") / "store", content)
    for ending in (".jsonl", ".parquet"):
        path, ledger = exported(store, "mgh", ending)
        assert read_back(path, "mgh") == list(read_records(path)) == content
        assert (ledger.records, ledger.rows, ledger.lost) == (len(content), len(content), {})
    folder, ledger = exported(store, "datasets")
    assert read_back(folder, "mgh") == content
    assert not ledger.lost


@hypothetical
@given(distinct_records())
def test_flagembedding_and_tevatron_come_back(
    tmp_path_factory: pytest.TempPathFactory, content: list[Record]
):
    store = write_store(tmp_path_factory.mktemp("any") / "store", content)
    for format in ("flagembedding", "tevatron"):
        path, ledger = exported(store, format)
        found = read_back(path, format)
        levels = scores = 0
        for record, back in zip(content, found, strict=True):
            assert (back.id, back.task.instruction) == (record.id, record.task.instruction)
            assert (back.query, back.positive, back.score) == (record.query, record.positive, record.score)
            expected = [(n.text, n.level, n.score) for n in record.negatives]
            if format == "flagembedding":
                levels += sum(level is not None for _, level, _ in expected)
                whole = all(score is not None for *_, score in expected)
                scores += 0 if whole else sum(score is not None for *_, score in expected)
                expected = [(text, None, score if whole else None) for text, _, score in expected]
            assert [(n.text, n.level, n.score) for n in back.negatives] == expected
        assert (ledger.lost["levels"], ledger.lost["scores"]) == (levels, scores)
        assert ledger.lost["ids"] == ledger.lost["instructions"] == ledger.lost["negatives"] == 0
        assert ledger.lost["sources"] == ledger.lost["languages"] == ledger.lost["subtypes"] == len(content)


@hypothetical
@given(distinct_records(), st.data())
def test_columns_come_back(
    tmp_path_factory: pytest.TempPathFactory, content: list[Record], data: st.DataObject
):
    store = write_store(tmp_path_factory.mktemp("any") / "store", content)
    width = data.draw(st.integers(0, max(len(record.negatives) for record in content)))
    written = [record for record in content if len(record.negatives) >= width]
    scored = all(None not in (record.scores if width else [record.score]) for record in written)
    for ending in (".jsonl", ".parquet"):
        path, ledger = exported(store, "sentence-transformers", ending, negatives=width)
        found = read_back(path, "sentence-transformers", instruction="i")
        kept_scores = 0
        for record, back in zip(written, found, strict=True):
            assert (back.query, back.positive) == (record.query, record.positive)
            texts = [negative.text for negative in back.negatives]
            kept = [negative for negative in record.negatives if negative.text in texts]
            levels = [negative.level or 0 for negative in kept]
            dropped = [negative.level or 0 for negative in record.negatives if negative not in kept]
            assert [negative.text for negative in kept] == texts
            assert len(texts) == width
            assert min(levels, default=5) >= max(dropped, default=0)
            expected = [record.score, *(negative.score for negative in kept)]
            assert back.scores == (expected if scored else [None] * (1 + width))
            kept_scores += 1 + width if scored else 0
        assert ledger.records == ledger.rows == len(written)
        assert sum(ledger.left_out.values()) == len(content) - len(written)
        assert ledger.lost["negatives"] == sum(len(record.negatives) - width for record in written)
        had = sum(score is not None for record in written for score in record.scores)
        assert ledger.lost["scores"] == had - kept_scores


@hypothetical
@given(distinct_records())
def test_triplets_come_back(tmp_path_factory: pytest.TempPathFactory, content: list[Record]):
    store = write_store(tmp_path_factory.mktemp("any") / "store", content)
    written = [record for record in content if record.negatives]
    if not written:
        with pytest.raises(MghError, match="No record has a negative"):
            exported(store, "sentence-transformers-triplets")
        return
    scored = all(None not in record.scores for record in written)
    expected = [
        (
            record.query,
            record.positive,
            negative.text,
            *([record.score, negative.score] if scored else [None] * 2),
        )
        for record in written
        for negative in record.negatives
    ]
    for ending in (".jsonl", ".parquet"):
        path, ledger = exported(store, "sentence-transformers-triplets", ending)
        found = read_back(path, "sentence-transformers", instruction="i")
        assert [
            (back.query, back.positive, back.negatives[0].text, *back.scores) for back in found
        ] == expected
        assert (ledger.records, ledger.rows) == (len(written), len(expected))
        assert ledger.left_out == (
            {"without negatives": left} if (left := len(content) - len(written)) else {}
        )


@hypothetical
@given(st.lists(records(), min_size=1, max_size=4, unique_by=lambda record: record.id), st.booleans())
def test_beir_judges_every_text_of_every_query(
    tmp_path_factory: pytest.TempPathFactory, content: list[Record], same_query: bool
):
    if same_query:
        asked = {"query": content[0].query, "task": content[0].task}
        content = [record.model_copy(update=asked) for record in content]
    folder, ledger = exported(write_store(tmp_path_factory.mktemp("any") / "store", content), "beir")
    expected: dict[tuple[str, str, str], int] = {}
    for record in content:
        judged = [(n.text, {None: 0, 1: -4, 2: -3, 3: -2, 4: -1}[n.level]) for n in record.negatives]
        for text, score in [(record.positive, 1), *judged]:
            key = (record.task.instruction, record.query, text)
            expected[key] = max(score, expected.get(key, score))
    corpus = {row["_id"]: row["text"] for row in lines(folder / "corpus.jsonl")}
    queries = {
        row["_id"]: (row["metadata"]["instruction"], row["text"]) for row in lines(folder / "queries.jsonl")
    }
    with (folder / "qrels" / "test.tsv").open(encoding="utf-8", newline="") as file:
        header, *judgements = csv.reader(file, delimiter="\t")
    assert header == ["query-id", "corpus-id", "score"]
    assert len(set(corpus.values())) == len(lines(folder / "corpus.jsonl"))
    assert len(set(queries.values())) == len(lines(folder / "queries.jsonl"))
    assert len(judgements) == ledger.rows == len(expected)
    assert {(*queries[q], corpus[d]): int(score) for q, d, score in judgements} == expected


def test_texts_that_records_judge_differently_are_counted(tmp_path: Path):
    def judged(number: int, positive: str, **levels: int | None) -> dict[str, Any]:
        negatives = [{"text": text, "level": level} for text, level in levels.items()]
        return record_values(number, query="q", positive=positive, negatives=negatives)

    path = write_jsonl(
        tmp_path / "own.jsonl", [judged(0, "a", b=1, c=None, d=2), judged(1, "b", a=4, c=3, d=2)]
    )
    folder, ledger = exported(path, "beir")
    corpus = {row["_id"]: row["text"] for row in lines(folder / "corpus.jsonl")}
    table = (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]
    assert [(corpus[document], int(score)) for _, document, score in (row.split("\t") for row in table)] == [
        ("a", 1), ("b", 1), ("c", 0), ("d", -3),
    ]  # fmt: skip
    assert sorted(ledger.notes.values()) == [1, 2]
    assert ledger.lost == {"ids": 2, "languages": 2, "sources": 2, "subtypes": 2}


def test_measures_are_blind_to_the_levels_of_what_is_not_relevant(tmp_path: Path):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    [record] = make_records(1)
    folder, _ = exported(write_store(tmp_path / "store", [record]), "beir")
    rows = [line.split("\t") for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    [query] = {query for query, _, _ in rows}
    graded = {document: int(score) for _, document, score in rows}
    assert sorted(graded.values()) == [-4, -3, -2, -1, 1]
    flat = {document: max(score, 0) for document, score in graded.items()}
    run = {query: {document: float(score != 1) - score for document, score in graded.items()}}
    measures = {"ndcg_cut.3,10", "map", "recall.1,3", "recip_rank", "P.1,3"}
    found = [
        pytrec_eval.RelevanceEvaluator({query: qrels}, measures).evaluate(run) for qrels in (graded, flat)
    ]
    assert found[0] == found[1]
    assert 0 < found[0][query]["ndcg_cut_10"] < 1


def test_datasets_loads_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets_format, "FILE_BYTES", 5_000)
    content = make_records(10)
    folder, _ = exported(write_store(tmp_path / "store", content), "datasets")
    parts = sorted(path.name for path in folder.glob("data-*"))
    assert len(parts) > 1
    assert parts[-1] == f"data-{len(parts) - 1:05d}-of-{len(parts):05d}.arrow"
    found = datasets.load_from_disk(str(folder))
    assert found["id"][:] == [record.id for record in content]
    assert found[7]["negatives"] == [
        {"text": n.text, "level": n.level, "score": None} for n in content[7].negatives
    ]
    assert found[7]["source"] == [{"key": key, "value": value} for key, value in content[7].source.items()]
    assert found[7]["task"] == content[7].task.model_dump()


@pytest.mark.system  # its import takes seconds
def test_sentence_transformers_takes_the_columns_for_texts_and_scores(tmp_path: Path):
    collator = pytest.importorskip("sentence_transformers.base.data_collator")
    rows = [
        record_values(
            number, score=2.5, negatives=[{"text": f"n{n}", "level": n, "score": n / 8} for n in (1, 2, 3)]
        )
        for number in range(2)
    ]
    path, _ = exported(write_jsonl(tmp_path / "own.jsonl", rows), "sentence-transformers")
    collate = collator.BaseDataCollator(preprocess_fn=lambda texts, **_: {"texts": texts})
    batch = collate(lines(path))
    assert batch.pop("label").tolist() == [[2.5, 0.125, 0.25, 0.375]] * 2
    assert list(batch) == [
        f"{name}_texts" for name in ("anchor", "positive", "negative_1", "negative_2", "negative_3")
    ]
    assert batch["negative_3_texts"] == ["n3", "n3"]


def test_pairs_without_negatives_have_a_number_for_a_score(tmp_path: Path):
    rows = [record_values(number, negatives=[], score=number / 4) for number in range(3)]
    path, _ = exported(write_jsonl(tmp_path / "own.jsonl", rows), "sentence-transformers")
    assert [list(row) for row in lines(path)] == [["anchor", "positive", "score"]] * 3
    assert [row["score"] for row in lines(path)] == [0, 0.25, 0.5]


def test_rows_of_flagembedding_and_tevatron_have_the_same_keys(tmp_path: Path):
    plain = record_values(0, negatives=[{"text": "n", "level": None}])
    scored = record_values(1, score=3.0, negatives=[{"text": "n", "level": 4, "score": 1.0}])
    path = write_jsonl(tmp_path / "own.jsonl", [plain, scored])
    first, second = lines(exported(path, "flagembedding")[0])
    assert list(first) == list(second) == ["query", "pos", "neg", "pos_scores", "neg_scores", "prompt", "id"]
    scores = [(row["pos_scores"], row["neg_scores"]) for row in (first, second)]
    assert scores == [(None, None), ([3.0], [1.0])]
    first, second = lines(exported(path, "tevatron")[0])
    assert list(first) == list(second)
    assert first["negative_passages"] == [
        {"docid": text_id("n"), "title": "", "text": "n", "level": None, "score": None}
    ]
    assert second["negative_passages"] == [
        {"docid": text_id("n"), "title": "", "text": "n", "level": 4, "score": 1.0}
    ]
    path = write_jsonl(tmp_path / "plain.jsonl", [plain])
    [row] = lines(exported(path, "flagembedding")[0])
    assert list(row) == ["query", "pos", "neg", "prompt", "id"]
    [row] = lines(exported(path, "tevatron")[0])
    assert list(row["negative_passages"][0]) == ["docid", "title", "text"]


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_the_same_records_give_the_same_bytes(tmp_path: Path, format: str):
    content = make_records(5)
    found = []
    for name, source in (
        ("store", write_store(tmp_path / "own", content)),
        ("again", tmp_path / "own"),
        ("lines", write_jsonl(tmp_path / "own.jsonl", [record.model_dump() for record in content])),
    ):
        made = export(
            source, output_of(tmp_path / name, format, ".parquet" if format == "mgh" else ".jsonl"), format
        )
        root = made.path.parent
        found.append(
            {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()}
        )
    assert found[0] == found[1] == found[2]
    assert all(found[0].values())


def test_parquet_is_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rows_module, "BATCH_ROWS", 3)
    monkeypatch.setattr(rows_module, "GROUP_ROWS", 6)
    path, _ = exported(write_store(tmp_path / "store", make_records(20)), "mgh", ".parquet")
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [6, 6, 6, 2]


@pytest.mark.parametrize("format", ["tevatron", "beir"])
def test_memory_does_not_grow_with_the_store(tmp_path: Path, format: str):
    text = "word " * 800
    negatives = [{"text": text, "level": 1}]
    content = (record_values(n, positive=f"{n} {text}", negatives=negatives) for n in range(2_000))
    store = write_store(tmp_path / "store", map(Record.model_validate, content))
    told: list[int] = []
    tracemalloc.start()
    exported(store, format, progress=told.append)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(told) == 2_000
    assert peak < 8 * 2**20, f"{peak:,} bytes, of which the texts are 16 million"


def test_the_command_says_what_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [record_values(0, score=1.0), record_values(1, negatives=[]), record_values(2)]
    path = write_jsonl(tmp_path / "own.jsonl", rows)
    export_command(str(path), tmp_path / "out.jsonl", "sentence-transformers", negatives=3)
    out = capsys.readouterr().out
    assert f"2 records in {tmp_path / 'out.jsonl'}, 2 rows" in out
    assert "Left out: 1 records with fewer than 3 negatives" in out
    assert (
        "ids (2), instructions (2), languages (2), levels (8), negatives (2), scores (1), sources (2), "
        "subtypes (2)"
    ) in out
    export_command(str(path), tmp_path / "out.jsonl", "flagembedding", replace=True)
    assert "1 records have no negatives, and FlagEmbedding cannot" in capsys.readouterr().out
    export_command("sample:held_out", tmp_path / "sample.parquet", "mgh")
    assert "Not kept" not in capsys.readouterr().out


RAGGED = [record_values(0), record_values(1, negatives=[{"text": "n", "level": 1}]), record_values(2)]


@pytest.mark.parametrize(
    ("output", "format", "options", "message"),
    [
        ("out.jsonl", "tevatrom", {}, "did you mean `tevatron`"),
        ("out.parquet", "flagembedding", {}, r"a file ending in .jsonl, found .*out.parquet"),
        ("out", "mgh", {}, r"a file ending in .jsonl or .parquet"),
        ("out.jsonl", "mgh", {"negatives": 3}, "keeps all negatives: leave --negatives out"),
        ("out.jsonl", "sentence-transformers", {"negatives": 65}, "must be 0 to 64, found 65"),
        ("out.jsonl", "sentence-transformers", {"negatives": 5}, "give --negatives 4 or fewer"),
        (
            "out.jsonl",
            "sentence-transformers",
            {},
            r"Records have 1 to 4 negatives.*\(1 keeps all records, 4 keeps 2 of 3\)",
        ),
        ("there.jsonl", "mgh", {}, "exists already: choose another name, or give --replace"),
        ("there", "beir", {}, "exists already"),
        ("there", "beir", {"replace": True}, r"holds no corpus.jsonl, so it is no earlier output"),
        ("there.jsonl", "beir", {"replace": True}, r"holds no corpus.jsonl"),
        ("folder.jsonl", "mgh", {"replace": True}, "is a folder, and format 'mgh' a file"),
        ("own.jsonl", "mgh", {"replace": True}, "holds the records that are read"),
        (".", "datasets", {"replace": True}, "holds the records that are read"),
    ],
)
def test_what_is_refused_leaves_all_as_it_was(
    tmp_path: Path, output: str, format: str, options: dict[str, Any], message: str
):
    source = write_jsonl(tmp_path / "own.jsonl", RAGGED)
    (tmp_path / "there.jsonl").write_text("earlier")
    (tmp_path / "there").mkdir()
    (tmp_path / "folder.jsonl").mkdir()
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(MghError, match=message):
        export(source, tmp_path / output, format, **options)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("format", ["tevatron", "beir"])
def test_bad_input_never_loses_an_earlier_output(tmp_path: Path, format: str):
    store = write_store(tmp_path / "store", make_records(3))
    output, _ = exported(store, format)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    bad = write_jsonl(tmp_path / "bad.jsonl", [record_values(0), record_values(1, query=3)])
    with pytest.raises(MghError, match=r"bad.jsonl, line 2, field 'query'"):
        export(bad, output, format, replace=True)
    with pytest.raises(MghError, match="does not exist"):
        export(tmp_path / "missing.jsonl", output, format, replace=True)
    bad.unlink()
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before
    part = store / "part-00000.arrow"
    part.write_bytes(part.read_bytes().replace(b"What is fact 1?", b"What is fact 7?"))
    with pytest.raises(MghError, match="is damaged: its sha256 differs"):
        export(store, output, format, replace=True)
    part.write_bytes(before[part] or b"")
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("format", ["tevatron", "beir"])
def test_an_interrupted_export_leaves_nothing(tmp_path: Path, format: str):
    store = write_store(tmp_path / "store", make_records(3))

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exported(store, format, progress=stop)
    assert list(tmp_path.iterdir()) == [store]


def test_source_of_a_table_must_be_keys_that_differ(tmp_path: Path):
    pair = {"key": "dataset", "value": "d"}
    sources = [[pair], [pair, pair], [{"key": 1, "value": "d"}], [{"key": "dataset"}], ["dataset"], []]
    path = write_jsonl(tmp_path / "own.jsonl", [record_values(n, source=s) for n, s in enumerate(sources)])
    report = ErrorReport()
    assert [record.source for record in records_of(path, "mgh", Settings(), report)] == [{"dataset": "d"}]
    assert report.reasons == {
        ("source", "duplicate_key"): 2, ("source", "dict_type"): 2, ("source", "missing_dataset"): 1,
    }  # fmt: skip
