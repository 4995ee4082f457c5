"""Each converter, on a small example written by hand, with the odd rows that real files have."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgh_ds.common.errors import MghError
from mgh_ds.records import store as store_module
from mgh_ds.records.commands import convert_command
from mgh_ds.records.convert import FORMATS, REJECTED, ConversionSummary, convert
from mgh_ds.records.convert.llm2vec import SEPARATOR
from mgh_ds.records.convert.settings import Settings
from mgh_ds.records.instructions import INSTRUCTIONS
from mgh_ds.records.schema import MAX_NEGATIVES, Record
from mgh_ds.records.store import Store
from tests.records.examples import make_records, record_values, write_jsonl

ASK = "Given a question, retrieve its answer"


def converted(
    path: Path, format: str, **options: Any
) -> tuple[list[Record], ConversionSummary, list[dict[str, Any]]]:
    """Converts into a folder beside the input: the records, the summary, the refused rows as written."""
    summary = convert(path, path.with_name("store"), format, Settings(**options))
    report = summary.report
    assert report.rows_read == report.accepted + report.rejected
    rejected_path = summary.path / REJECTED
    rejected = (
        [json.loads(line) for line in rejected_path.read_text().splitlines()]
        if rejected_path.exists()
        else []
    )
    assert len(rejected) == report.rejected
    assert rejected_path.exists() == bool(rejected)
    store = Store.open(summary.path)
    store.verify()
    assert len(store) == summary.records
    notes = store.manifest.notes["conversion"]
    assert (notes["format"], notes["rejected"], notes["accepted"]) == (
        format,
        report.rejected,
        report.accepted,
    )
    return list(store), summary, rejected


def refusals(rejected: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(refusal["line"], refusal["field"]) for refusal in rejected]


def negatives_of(record: Record) -> list[tuple[str, int | None]]:
    return [(negative.text, negative.level) for negative in record.negatives]


def test_mgh(tmp_path: Path):
    path = write_jsonl(
        tmp_path / "own.jsonl", [record_values(0), record_values(1, query=3), record_values(2)]
    )
    found, _, rejected = converted(path, "mgh")
    assert found == [make_records(3)[0], make_records(3)[2]]
    assert refusals(rejected) == [(2, "query")]


def test_mgh_takes_no_settings(tmp_path: Path):
    path = write_jsonl(tmp_path / "own.jsonl", [record_values(0)])
    with pytest.raises(MghError, match="bring their own"):
        convert(path, tmp_path / "store", "mgh", Settings(instruction=ASK))


def test_flagembedding(tmp_path: Path):
    rows = [
        {"query": "q0", "pos": ["p0"], "neg": ["n0", "n1"], "pos_scores": [0.9], "neg_scores": [0.1, 0.2]},
        {"query": "q1", "pos": ["p1", "p2"], "neg": [], "prompt": "Find the duplicate: ", "type": "normal"},
        {"query": "q2", "pos": ["p3", "p4"], "id": "two", "title": "a key of their own"},
        {"query": "q3", "pos": []},
        {"query": "q4", "pos": "p5"},
        {"query": "q5", "pos": ["p6", " "]},
        {"query": "q6", "pos": ["p7"], "neg": ["n", None]},
        {"query": "q7", "pos": ["p8", "p9"], "neg": ["p9"]},
        {"query": "q8", "neg": ["n"]},
        {"query": "q0", "pos": ["p0"], "neg": ["n0", "n1"]},
        {"query": "q9", "pos": ["p"], "neg": [f"n{number}" for number in range(65)]},
    ]
    found, summary, rejected = converted(
        write_jsonl(tmp_path / "mined.jsonl", rows), "flagembedding", instruction=ASK
    )
    assert [(record.query, record.positive) for record in found] == [
        ("q0", "p0"), ("q1", "p1"), ("q1", "p2"), ("q2", "p3"), ("q2", "p4"),
    ]  # fmt: skip
    assert negatives_of(found[0]) == [("n0", None), ("n1", None)]
    assert [record.task.instruction for record in found[:3]] == [
        ASK,
        "Find the duplicate:",
        "Find the duplicate:",
    ]
    assert [record.id for record in found[3:]] == ["two-0", "two-1"]
    assert found[0].source == {"dataset": "mined", "file": "mined.jsonl", "line": "1"}
    assert found[0].id.startswith("mined-")
    assert (found[0].task.kind, found[0].task.subtype) == ("asymmetric", "short-long")
    assert refusals(rejected) == [
        (4, "pos"), (5, "pos"), (6, "pos.1"), (7, "neg.1"),
        (8, "negatives"), (9, "pos"), (10, "id"), (11, "negatives"),
    ]  # fmt: skip
    assert summary.report.ignored_keys == {"title": 1}


def scores_of(records: list[Record]) -> dict[str, list[float | None]]:
    return {record.positive: record.scores for record in records}


def test_tevatron(tmp_path: Path):
    def passage(text: Any, **more: Any) -> dict[str, Any]:
        return {"docid": "7", "title": "", "text": text, **more}

    rows = [
        {"query_id": "0", "query": "q0", "positive_passages": [passage("p0", title="T")],
         "negative_passages": [passage("n0", level=4, score=0.5), passage("n1", level=None, score=None)]},
        {"query_id": "1", "query": "q1", "positive_passages": [passage("p1", score=2), passage("p2")],
         "instruction": "Find it", "answers": ["a key of their own"]},
        {"query": "q2", "positive_passages": [{"text": "p3"}], "negative_passages": []},
        {"query_id": "3", "query": "q3", "positive_passages": []},
        {"query_id": "4", "query": "q4", "positive_passages": [passage(" ", title=" ")]},
        {"query_id": "5", "query": "q5", "positive_passages": [passage("p")],
         "negative_passages": [passage(1)]},
        {"query_id": "6", "query": "q6", "positive_passages": [passage("p")],
         "negative_passages": [passage("n", level=5)]},
        {"query_id": "7", "query": "q7", "positive_document_ids": ["7"], "negative_document_ids": []},
        {"query_id": "0", "query": "q8", "positive_passages": [passage("p")]},
    ]  # fmt: skip
    found, summary, rejected = converted(write_jsonl(tmp_path / "t.jsonl", rows), "tevatron", instruction=ASK)
    assert [(record.id, record.query, record.positive, record.score) for record in found[:3]] == [
        ("0", "q0", "T p0", None), ("1-0", "q1", "p1", 2.0), ("1-1", "q1", "p2", None),
    ]  # fmt: skip
    assert [(n.text, n.level, n.score) for n in found[0].negatives] == [("n0", 4, 0.5), ("n1", None, None)]
    assert [record.task.instruction for record in found] == [ASK, "Find it", "Find it", ASK]
    assert found[3].id.startswith("t-")
    assert refusals(rejected) == [
        (4, "positive_passages"), (5, "positive_passages.0.text"), (6, "negative_passages.0.text"),
        (7, "negative_passages.0.level"), (8, "positive_passages"), (9, "id"),
    ]  # fmt: skip
    assert summary.report.ignored_keys["answers"] == 1


def test_flagembedding_keeps_scores(tmp_path: Path):
    rows = [
        {"query": "q0", "pos": ["p0", "p1"], "neg": ["n0"], "pos_scores": [9, 8.5], "neg_scores": [-1.25]},
        {"query": "q1", "pos": ["p2"], "neg": ["n0"], "pos_scores": [1], "neg_scores": None},
        {"query": "q2", "pos": ["p3"], "neg": ["n0"], "neg_scores": [0.5]},
        {"query": "q3", "pos": ["p4"], "neg": ["n0", "n1"], "pos_scores": [1], "neg_scores": [0.5]},
        {"query": "q4", "pos": ["p5", "p6"], "neg": [], "pos_scores": []},
        {"query": "q5", "pos": ["p7"], "neg": ["n0"], "pos_scores": ["1"]},
        {"query": "q6", "pos": ["p8"], "neg": ["n0", "n1"], "neg_scores": [0.5, None]},
        {"query": "q7", "pos": ["p9"], "neg": [], "pos_scores": 0.5},
        {"query": "q8", "pos": ["p10"], "neg": [], "pos_scores": [float("nan")]},
    ]
    path = write_jsonl(tmp_path / "scored.jsonl", rows)
    found, _, rejected = converted(path, "flagembedding", instruction=ASK)
    assert scores_of(found) == {
        "p0": [9.0, -1.25], "p1": [8.5, -1.25], "p2": [1.0, None], "p3": [None, 0.5],
    }  # fmt: skip
    assert sorted(refusals(rejected)) == [
        (4, "neg_scores"), (5, "pos_scores"), (6, "pos_scores.0"), (7, "neg_scores.1"),
        (8, "pos_scores"), (9, "row"),
    ]  # fmt: skip
    reasons = {refusal["line"]: refusal["reason"] for refusal in rejected}
    assert reasons[4] == "There should be 2 scores, for the texts of neg (found 1)"


def test_sentence_transformers_with_scores(tmp_path: Path):
    pair, triple = {"anchor": "a"}, {"anchor": "a", "negative_2": "n2", "negative_1": "n1"}
    rows = [
        pair | {"positive": "p0", "score": 1},
        pair | {"positive": "p1", "label": None, "scores": [0.5]},
        triple | {"positive": "p2", "label": [3, 1, -2]},
        triple | {"positive": "p3", "labels": [3, 1.5, 2], "scores": [9, 9, 9]},
        triple | {"positive": "p4", "label": 1.5},  # a margin
        triple | {"positive": "p5", "label": [1.5, 2.5]},  # margins
        triple | {"positive": "p6", "scores": [1, None, 2]},
        pair | {"positive": "p7", "score": "good"},
    ]
    path = write_jsonl(tmp_path / "scored.jsonl", rows)
    found, summary, rejected = converted(path, "sentence-transformers", instruction=ASK)
    assert scores_of(found) == {
        "p0": [1.0], "p1": [0.5], "p2": [3.0, 1.0, -2.0], "p3": [3.0, 1.5, 2.0], "p4": [None, None, None],
    }  # fmt: skip
    assert sorted(refusals(rejected)) == [(6, "label"), (7, "scores.1"), (8, "score")]
    assert summary.report.ignored_keys["label"] == 2  # null, and the margin
    assert summary.report.ignored_keys["scores"] == 1


def test_scores_from_tables(tmp_path: Path):
    columns = {"anchor": ["a"] * 3, "positive": ["p0", "p1", "p2"], "negative": ["n"] * 3}
    scores = pa.array([[2.5, 0.5], None, [1, float("nan")]], pa.list_(pa.float64()))
    folder = tmp_path / "tables"
    folder.mkdir()
    pq.write_table(pa.table(columns | {"scores": scores}), folder / "a.parquet")
    (folder / "b.csv").write_text("anchor,positive,score\nb,p3,0.25\nb,p4,nan\nb,p5,\n")
    found, _, rejected = converted(folder, "sentence-transformers", instruction=ASK)
    assert scores_of(found) == {"p0": [2.5, 0.5], "p1": [None, None], "p3": [0.25], "p5": [None]}
    assert refusals(rejected) == [(3, "scores.1"), (3, "score")]


def test_sentence_transformers(tmp_path: Path):
    rows = [
        {"anchor": "a0", "positive": "p0"},
        {"anchor": "a1", "positive": "p1", "negative": "n"},
        {"anchor": "a2", "positive": "p2", **{f"negative_{number}": f"n{number}" for number in (10, 2, 1)}},
        {"anchor": "a3", "positive": "p3", "negative_1": "n1", "negative_2": None},
        {"anchor": "a4", "positive": "p4", "negative_1": "p4"},
        {"anchor": "a5", "negative": "n"},
        {"query": "a6", "answer": "p6"},
        {"anchor": "a7", "positive": "p7", "negative_01": "n", "score": 0.5, "scores": 0.5},
    ]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    found, summary, rejected = converted(
        path, "sentence-transformers", instruction=ASK, dataset="mine", language="de"
    )
    assert [record.query for record in found] == ["a0", "a1", "a2", "a7"]
    assert [negatives_of(record) for record in found] == [
        [],
        [("n", None)],
        [("n1", None), ("n2", None), ("n10", None)],
        [],
    ]
    assert {record.source["dataset"] for record in found} == {"mine"}
    assert {record.language for record in found} == {"de"}
    assert refusals(rejected) == [(4, "negative_2"), (5, "negatives"), (6, "positive"), (7, "anchor")]
    assert summary.report.ignored_keys == {"negative_01": 1, "scores": 1}


def test_sentence_transformers_from_parquet(tmp_path: Path):
    offsets = pa.array([0, 2, 4, 6, 8], pa.int32()).buffers()[1]
    columns = {
        "anchor": pa.array(["a0", "a1", "a2", "a3"]),
        "positive": pa.StringArray.from_buffers(4, offsets, pa.py_buffer(b"p0p\xffp2p3")),  # one is not UTF-8
        "negative_1": pa.array(["n0", "n1", None, "n3"]),
    }
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table(columns), path)
    found, _, rejected = converted(path, "sentence-transformers", instruction=ASK)
    assert [(record.query, record.positive) for record in found] == [("a0", "p0"), ("a3", "p3")]
    assert found[1].source == {"dataset": "pairs", "file": "pairs.parquet", "line": "4"}
    assert refusals(rejected) == [(2, "row"), (3, "negative_1")]


def test_a_file_that_is_no_parquet(tmp_path: Path):
    path = tmp_path / "pairs.parquet"
    path.write_bytes(b"PAR1, or so it says")
    with pytest.raises(MghError, match="not a readable Parquet file"):
        convert(path, tmp_path / "store", "sentence-transformers", Settings(instruction=ASK))
    assert not (tmp_path / "store").exists()


def test_llm2vec(tmp_path: Path):
    rows = [
        {"query": "who won", "positive": "the home side", "negative": "a game"},
        {
            "query": f"Find the winner; {SEPARATOR}who lost",
            "positive": f"{SEPARATOR}the guests",
            "negative": f"{SEPARATOR}a draw",
        },
        {"query": "who won", "positive": "the home side", "negative": ["a", "list"]},
        {"query": f"Find the winner; {SEPARATOR} ", "positive": "p", "negative": "n"},
    ]
    found, _, rejected = converted(write_jsonl(tmp_path / "nq.jsonl", rows), "llm2vec", instruction=ASK)
    assert [(r.task.instruction, r.query, r.positive, negatives_of(r)) for r in found] == [
        (ASK, "who won", "the home side", [("a game", None)]),
        ("Find the winner", "who lost", "the guests", [("a draw", None)]),
    ]
    assert refusals(rejected) == [(3, "negative"), (4, "query")]


def test_a_folder_of_data_sets_asks_the_registry(tmp_path: Path):
    folder = tmp_path / "triples"
    folder.mkdir()
    row = {"query": "q", "positive": "p", "negative": "n"}
    write_jsonl(folder / "SNLI.jsonl", [row])
    write_jsonl(folder / "CLINC150.jsonl", [row])
    write_jsonl(folder / "unheard_of.jsonl", [row])
    (folder / "README.md").write_text("not data")
    found, summary, [refusal] = converted(folder, "llm2vec")
    by_dataset = {record.source["dataset"]: record.task for record in found}
    assert by_dataset["SNLI"].instruction == INSTRUCTIONS["SNLI"].text
    assert (by_dataset["SNLI"].subtype, by_dataset["CLINC150"].subtype) == ("short-long", "paraphrase")
    assert len({record.id for record in found}) == 2
    assert refusal["field"] == "instruction"
    assert "'unheard_of': pass --instruction" in refusal["reason"]
    assert Store.open(summary.path).manifest.notes["conversion"]["files"] == [
        "CLINC150.jsonl", "SNLI.jsonl", "unheard_of.jsonl",
    ]  # fmt: skip


def nli(premise: Any, hypothesis: Any, label: Any) -> dict[str, Any]:
    return {"premise": premise, "hypothesis": hypothesis, "label": label}


NLI = [
    nli("A dog runs on the beach.", "An animal is outside.", "entailment"),
    nli("Two men cook.", "Men are cooking.", 0),
    nli("A dog runs on the beach.", "The dog sleeps.", "contradiction"),
    nli("A dog runs on the beach.", "A big animal is outside.", "neutral"),
    nli("Two men cook.", "They fry fish at home.", 1),
    nli("A dog runs on the beach.", "The dog chases a ball.", 1),
    nli("Nobody is here.", "It is dark.", "neutral"),
    nli("A dog runs on the beach.", "There is a dog.", "entailment"),
    nli("Two men cook.", "Two men are asleep.", 2),
    nli("Nobody is here.", "Somebody is here.", "contradiction"),
    nli("Two men cook.", "Men are cooking.", "entailment"),
    nli("Two men cook.", "Nobody agreed.", "-"),
    nli("Two men cook.", "Nobody agreed.", -1),
    nli("Two men cook.", "A boolean label.", True),
    nli("Two men cook.", "A float label.", 1.0),
    nli(None, "No premise.", "neutral"),
]


def test_nli(tmp_path: Path):
    found, _, rejected = converted(write_jsonl(tmp_path / "nli.jsonl", NLI), "nli")
    dog, men = ([r for r in found if r.query.startswith(start)] for start in ("A dog", "Two men"))
    assert len(found) == 3
    assert [record.positive for record in dog] == ["An animal is outside.", "There is a dog."]
    assert [record.positive for record in men] == ["Men are cooking."]

    # The neutral that shares words with the positive is level 3, the other level 2: here they change places.
    assert [negatives_of(record)[1:] for record in dog] == [
        [("The dog chases a ball.", 2), ("A big animal is outside.", 3), ("The dog sleeps.", 4)],
        [("A big animal is outside.", 2), ("The dog chases a ball.", 3), ("The dog sleeps.", 4)],
    ]
    assert negatives_of(men[0])[1:] == [("They fry fish at home.", 2), ("Two men are asleep.", 4)]

    hypotheses = {row["hypothesis"]: row["premise"] for row in NLI if row["premise"]}
    for record in found:
        text, level = negatives_of(record)[0]
        assert level == 1
        assert hypotheses[text] != record.query

    assert sorted(refusals(rejected)) == [
        (7, "label"), (10, "label"), (11, "row"), (12, "label"),
        (13, "label"), (14, "label"), (15, "label"), (16, "premise"),
    ]  # fmt: skip
    assert sum("no positive" in refusal["reason"] for refusal in rejected) == 2
    assert men[0].source == {"dataset": "nli", "file": "nli.jsonl", "line": "2"}
    assert men[0].task.instruction == INSTRUCTIONS["SNLI"].text


def test_nli_does_not_depend_on_the_order_of_the_rows(tmp_path: Path):
    def records_without_place(folder: str, rows: list[Any]) -> list[dict[str, Any]]:
        (tmp_path / folder).mkdir()
        found, _, _ = converted(write_jsonl(tmp_path / folder / "nli.jsonl", rows), "nli")
        return sorted(
            (record.model_dump(exclude={"source"}) for record in found), key=lambda record: record["id"]
        )

    rows = NLI[:10]  # without the pair that stands there twice: of such pairs the first counts
    assert records_without_place("forth", rows) == records_without_place("back", rows[::-1])


def test_nli_with_one_premise_has_no_easy_negative(tmp_path: Path):
    found, _, _ = converted(write_jsonl(tmp_path / "nli.jsonl", [nli("p", "e", 0), nli("p", "c", 2)]), "nli")
    assert [negatives_of(record) for record in found] == [[("c", 4)]]


def test_nli_refuses_a_premise_with_too_many_hypotheses_whole(tmp_path: Path):
    crowd = [nli("p", f"hypothesis {number}", 2) for number in range(70)]
    rows = [nli("p", "e", 0), *crowd, nli("q", "f", 0)]
    found, _, rejected = converted(write_jsonl(tmp_path / "nli.jsonl", rows), "nli")
    assert [record.query for record in found] == ["q"]
    assert len(rejected) == 71
    assert {refusal["field"] for refusal in rejected} == {"negatives"}


def sts(one: str, two: str, score: Any) -> dict[str, Any]:
    return {"sentence1": one, "sentence2": two, "score": score}


BANDS = [
    ("b40", 4.0),
    ("b39", 3.9),
    ("b30", 3.0),
    ("b20", 2.0),
    ("b10", 1.0),
    ("b05", 0.5),
    ("b00", 0),
    ("b50", 5),
]


@pytest.mark.parametrize("scale", [1, 5])
def test_sts(tmp_path: Path, scale: int):
    rows = [sts("a", text, score * scale / 5) for text, score in BANDS]
    rows[2:2] = [sts("other", "unlike", 0), sts("other", "hardly like", scale * 3.99 / 5)]
    bad = [
        sts("a", "b50", scale),
        sts("a", "x", -1),
        sts("a", "x", 5.1),
        sts("a", "x", "5"),
        sts("a", "x", None),
    ]
    found, _, rejected = converted(write_jsonl(tmp_path / "sts.jsonl", rows + bad), "sts")
    assert [(record.query, record.positive) for record in found] == [("a", "b40"), ("a", "b50")]
    for record in found:
        assert negatives_of(record) == [
            ("b00", 1),
            ("b05", 1),
            ("b10", 2),
            ("b20", 3),
            ("b30", 4),
            ("b39", 4),
        ]
        assert (record.task.kind, record.task.subtype) == ("symmetric", "sts")
    assert sorted(refusals(rejected)) == [
        (3, "score"), (4, "score"), (11, "row"), (12, "score"), (13, "score"), (14, "score"), (15, "score"),
    ]  # fmt: skip


@pytest.mark.parametrize("scale", [1, 5])
def test_sts_pairs_are_kept_with_their_scores(tmp_path: Path, scale: int):
    rows = [sts("a", text, score * scale / 5) for text, score in BANDS]
    rows += [sts("other", "unlike", 0), sts("b40", "a", 4.0 * scale / 5)]
    bad = [sts("a", "b50", scale), sts("a", "x", -1), sts("a", "x", None), sts("same", "one", 0.5)]
    path = write_jsonl(tmp_path / "sts.jsonl", [*rows, *bad, sts("one", "same", 0)])
    found, _, rejected = converted(path, "sts-pairs")
    kept = {(record.query, record.positive): record.score for record in found}
    assert kept == pytest.approx({(r["sentence1"], r["sentence2"]): r["score"] / scale for r in rows})
    assert {len(record.negatives) for record in found} == {0}
    assert {(record.task.kind, record.task.subtype) for record in found} == {("symmetric", "sts")}
    assert {record.task.instruction for record in found} == {INSTRUCTIONS["STSBenchmark"].text}
    assert sorted(refusals(rejected)) == [(11, "row"), (12, "score"), (13, "score"), (14, "row"), (15, "row")]


def test_converting_again_gives_the_same_store(tmp_path: Path):
    path = write_jsonl(tmp_path / "nli.jsonl", NLI)
    first = convert(path, tmp_path / "one", "nli")
    second = convert(path, tmp_path / "two", "nli")
    assert Store.open(first.path).manifest_hash == Store.open(second.path).manifest_hash


def test_stop_leaves_nothing_and_names_the_row(tmp_path: Path):
    path = write_jsonl(tmp_path / "nli.jsonl", NLI)
    with pytest.raises(MghError, match=r"nli.jsonl, line 11, field 'row'"):
        convert(path, tmp_path / "store", "nli", on_error="stop")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "is empty"), ([{"premise": 1}], "no usable row: all 1 are refused.*field 'premise'")],
)
def test_no_usable_row_is_an_error(tmp_path: Path, rows: list[Any], message: str):
    path = write_jsonl(tmp_path / "nli.jsonl", rows)
    with pytest.raises(MghError, match=message):
        convert(path, tmp_path / "store", "nli")
    assert list(tmp_path.iterdir()) == [path]


def test_what_to_convert_must_be_there_and_known(tmp_path: Path):
    with pytest.raises(MghError, match="did you mean `llm2vec`"):
        convert(tmp_path, tmp_path / "store", "llm2vek")
    with pytest.raises(
        MghError, match=r"no file ending in .jsonl, .ndjson, .json, .csv, .tsv, .arrow, .feather or .parquet"
    ):
        convert(tmp_path, tmp_path / "store", "nli")
    with pytest.raises(MghError, match="does not exist"):
        convert(tmp_path / "missing", tmp_path / "store", "nli")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.sampled_from([name for name in FORMATS if name not in ("mgh", "beir")]), st.data())
def test_any_row_of_any_format_is_settled(
    tmp_path_factory: pytest.TempPathFactory, format: str, data: st.DataObject
):
    keys = ["query", "pos", "neg", "prompt", "anchor", "positive", "negative", "negative_1", "premise"]
    keys += ["hypothesis", "label", "sentence1", "sentence2", "score", "id", "query_id"]
    keys += ["positive_passages", "negative_passages"]
    text = st.text(st.characters(), max_size=5)
    passage = st.dictionaries(st.sampled_from(["text", "title", "level", "score"]), text | st.integers(0, 5))
    value = st.one_of(
        text,
        st.lists(text, max_size=3),
        st.lists(passage, max_size=2),
        st.none(),
        st.integers(-1, 6),
        st.floats(),
        st.just("entailment"),
    )
    rows = data.draw(st.lists(st.dictionaries(st.sampled_from(keys), value), max_size=6))
    sound = {
        "query": "q",
        "pos": ["p"],
        "anchor": "a",
        "positive": "p",
        "negative": "n",
        "premise": "p",
        "hypothesis": "h",
        "label": 0,
        "sentence1": "s",
        "sentence2": "t",
        "score": 4.5,
        "positive_passages": [{"text": "p"}],
    }
    folder = tmp_path_factory.mktemp("any")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [sound, *rows]))
    _, summary, _ = converted(folder / "rows.jsonl", format, instruction=ASK)
    assert summary.report.rows_read == len(rows) + 1
    assert summary.report.accepted >= 1


MEASURED = """
import resource, sys
from pathlib import Path
from mgh_ds.records import store
from mgh_ds.records.convert import convert
from mgh_ds.records.convert.settings import Settings
store.PART_CHARS = 2**20
small, large, output, format = sys.argv[1:]
convert(Path(small), Path(output) / "small", format, Settings(instruction="i"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(Path(large), Path(output) / "large", format, Settings(instruction="i"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("format", ["llm2vec", "nli"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, format: str):
    def rows(count: int) -> list[dict[str, Any]]:
        long = "word " * 1_000
        if format == "nli":
            return [nli(f"{n} {long}", f"{n} hypothesis {long}", 0) for n in range(count)]
        return [
            {"query": f"{n}", "positive": f"{n} {long}", "negative": f"not {n} {long}"} for n in range(count)
        ]

    paths = [write_jsonl(tmp_path / f"{count}.jsonl", rows(count)) for count in (300, 3_000)]
    command = [sys.executable, "-c", MEASURED, *paths, tmp_path, format]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown = int(done.stdout) * 1024
    assert paths[1].stat().st_size > 30e6
    assert grown < 12e6


def test_parts_of_a_conversion_join_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "PART_ROWS", 3)
    path = write_jsonl(tmp_path / "own.jsonl", [record_values(number) for number in range(10)])
    found, _, _ = converted(path, "mgh")
    assert found == make_records(10)


@pytest.mark.parametrize("order", [1, -1])
def test_rows_that_contradict_each_other_are_all_refused(tmp_path: Path, order: int):
    rows = [
        nli("p", "e", "entailment"),
        nli("p", "h", "entailment"),
        nli("p", "h", "contradiction"),
        nli("p", "h", "entailment"),
        nli("p", "n", "neutral"),
    ][::order]
    found, summary, rejected = converted(write_jsonl(tmp_path / "nli.jsonl", rows), "nli")
    assert [(record.positive, negatives_of(record)) for record in found] == [("e", [("n", 2)])]
    assert sorted(refusals(rejected)) == [(2, "row"), (3, "row"), (4, "row")]
    assert summary.report.reasons == {("row", "contradiction"): 3}
    reasons = {refusal["line"]: refusal["reason"] for refusal in rejected}
    assert "line 2 has the same two texts as" in reasons[3]
    assert "line 3 has the same two texts as" in reasons[2]


def test_a_contradiction_may_run_through_two_files(tmp_path: Path):
    folder = tmp_path / "nli"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", [nli("p", "h", 0), nli("p", "e", 0)])
    write_jsonl(folder / "b.jsonl", [nli("p", "h", 1)])
    found, _, rejected = converted(folder, "nli")
    assert [record.positive for record in found] == ["e"]
    assert [(Path(r["file"]).name, Path(r["reason"].split(",")[0]).name) for r in rejected] == [
        ("b.jsonl", "a.jsonl"),
        ("a.jsonl", "b.jsonl"),
    ]


def test_stop_names_both_of_two_contradictory_rows(tmp_path: Path):
    path = write_jsonl(tmp_path / "nli.jsonl", [nli("p", "h", 0), nli("p", "h", 2)])
    with pytest.raises(MghError, match=r"line 2, field 'row': line 1 has the same two texts as 'entailment'"):
        convert(path, tmp_path / "store", "nli", on_error="stop")


def test_two_scores_of_one_pair_contradict_each_other(tmp_path: Path):
    rows = [sts("a", "b", 5), sts("a", "c", 4.5), sts("a", "b", 0), sts("a", "d", 1)]
    found, _, rejected = converted(write_jsonl(tmp_path / "sts.jsonl", rows), "sts")
    assert [(record.positive, negatives_of(record)) for record in found] == [("c", [("d", 2)])]
    assert sorted(refusals(rejected)) == [(1, "row"), (3, "row")]


def test_two_scores_of_one_pair_contradict_each_other_in_either_order(tmp_path: Path):
    rows = [
        *(sts("a", "b", 5), sts("b", "a", 0), sts("a", "b", 0)),
        *(sts("a", "c", 4.5), sts("c", "a", 4.5)),
        *(sts("d", "e", 5), sts("e", "d", 5), sts("d", "e", 4)),
    ]
    found, _, rejected = converted(write_jsonl(tmp_path / "sts.jsonl", rows), "sts")
    assert {(record.query, record.positive) for record in found} == {("a", "c"), ("c", "a")}
    assert sorted(line for line, _ in refusals(rejected)) == [1, 2, 3, 6, 7, 8]
    reasons = {refusal["line"]: refusal["reason"] for refusal in rejected}
    assert reasons[2] == "line 1 has the same two texts as 5.0: neither counts"
    assert reasons[7] == "line 8 has the same two texts as 4.0: neither counts"


@pytest.mark.parametrize("order", [1, -1])
def test_a_positive_that_another_row_has_as_a_negative_is_refused_there_too(tmp_path: Path, order: int):
    rows = [
        {"query": "q", "pos": ["p0"], "neg": ["n0", "n1"]},
        {"query": "q", "pos": ["p1", "n1"], "neg": ["n2"]},
        {"query": "q", "pos": ["p2"], "neg": ["n2"]},
        {"query": "q", "pos": ["n1"], "neg": ["n3"], "prompt": "Find another"},
        {"query": "other", "pos": ["n1"], "neg": ["p0"]},
    ][::order]
    path = write_jsonl(tmp_path / "mined.jsonl", rows)
    found, summary, rejected = converted(path, "flagembedding", instruction=ASK)
    kept = [("q", "p2"), ("q", "n1"), ("other", "n1")]
    assert [(record.query, record.positive) for record in found] == kept[::order]
    assert summary.report.reasons == {("row", "contradiction"): 2}
    negative, positive = (1, 2) if order == 1 else (5, 4)
    reasons = {refusal["line"]: refusal["reason"] for refusal in rejected}
    assert reasons.keys() == {negative, positive}
    assert f"line {positive} has as a positive of the same query what is a negative here" in reasons[negative]
    assert f"line {negative} has as a negative of the same query what is a positive here" in reasons[positive]
    with pytest.raises(MghError, match=r"field 'row': line \d has as a \w+ of the same query"):
        convert(path, tmp_path / "stopped", "flagembedding", Settings(instruction=ASK), on_error="stop")
    assert not (tmp_path / "stopped").exists()


@pytest.mark.parametrize("order", [1, -1])
def test_a_row_that_was_refused_for_its_id_is_a_witness_all_the_same(tmp_path: Path, order: int):
    rows = [
        {"query": "q", "pos": ["a"], "neg": ["b"], "id": "1"},
        {"query": "q", "pos": ["b"], "neg": ["c"], "id": "1"},
        {"query": "other", "pos": ["a"], "neg": ["b"], "id": "2"},
    ][::order]
    found, summary, _ = converted(
        write_jsonl(tmp_path / "mined.jsonl", rows), "flagembedding", instruction=ASK
    )
    assert [record.query for record in found] == ["other"]
    assert summary.report.reasons == {("id", "duplicate_id"): 1, ("row", "contradiction"): 1}


@pytest.mark.parametrize(
    ("format", "keys"),
    [
        ("llm2vec", ("query", "positive", "negative")),
        ("sentence-transformers", ("anchor", "positive", "negative_1")),
    ],
)
def test_triples_in_two_files_may_contradict_each_other(tmp_path: Path, format: str, keys: tuple[str, ...]):
    folder = tmp_path / "triples"
    folder.mkdir()
    for name, triples in {"a": [("a", "p", "n")], "b": [("a", "n", "m"), ("b", "p", "n")]}.items():
        write_jsonl(folder / f"{name}.jsonl", [dict(zip(keys, each, strict=True)) for each in triples])
    found, _, rejected = converted(folder, format, instruction=ASK)
    assert [record.query for record in found] == ["b"]
    assert [(Path(r["file"]).name, r["line"]) for r in rejected] == [("a.jsonl", 1), ("b.jsonl", 1)]
    assert [Path(r["reason"].split(",")[0]).name for r in rejected] == ["b.jsonl", "a.jsonl"]


@pytest.mark.parametrize("name", ["flagembedding", "tevatron", "sentence-transformers"])
def test_of_more_negatives_than_a_record_holds_the_first_are_kept(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Where it is asked for, with their scores, which must be as many as the row's; the rows are counted."""

    def row(query: str, count: int, scores: int) -> dict[str, Any]:
        texts, said = [f"n{number}" for number in range(count)], [float(number) for number in range(scores)]
        if name == "flagembedding":
            return {"query": query, "pos": ["p"], "neg": texts, "pos_scores": [1.0], "neg_scores": said}
        if name == "tevatron":
            negatives = [{"text": f"n{n}", "score": float(n)} for n in range(count)]
            return {"query": query, "positive_passages": [{"text": "p"}], "negative_passages": negatives}
        columns = {f"negative_{number}": text for number, text in enumerate(texts, start=1)}
        return {"anchor": query, "positive": "p", **columns, "scores": [1.0, *said]}

    rows = [row("a", MAX_NEGATIVES, MAX_NEGATIVES), row("b", 200, 200), row("c", 65, 65)]
    wrong = [] if name == "tevatron" else [row("d", 200, MAX_NEGATIVES)]
    path = write_jsonl(tmp_path / "many.jsonl", rows + wrong)
    _, summary, rejected = converted(path, name, instruction=ASK)
    assert (summary.records, refusals(rejected)[:2]) == (1, [(2, "negatives"), (3, "negatives")])
    assert "--negatives 64 keeps the first" in rejected[0]["reason"]
    convert_command(path, tmp_path / "all", name, instruction=ASK, negatives=MAX_NEGATIVES)
    store = Store.open(tmp_path / "all")
    assert [record.query for record in store] == ["a", "b", "c"]
    for record in store:
        assert [negative.text.strip() for negative in record.negatives] == [f"n{n}" for n in range(64)]
        assert [negative.score for negative in record.negatives] == [float(number) for number in range(64)]
    assert store.manifest.notes["conversion"]["shortened"] == 2
    assert "2 rows list more negatives than are kept, the first ones" in capsys.readouterr().out


def test_how_many_negatives_are_kept_is_for_rows_that_list_them(tmp_path: Path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"premise": "a", "hypothesis": "b", "label": 0}])
    with pytest.raises(MghError, match="--negatives is for flagembedding, sentence-transformers, tevatron"):
        convert_command(path, tmp_path / "store", "nli", instruction=ASK, negatives=3)
    with pytest.raises(MghError, match="--negatives must be 0 to 64, found 65"):
        convert_command(path, tmp_path / "store", "flagembedding", instruction=ASK, negatives=65)
    assert not (tmp_path / "store").exists()
