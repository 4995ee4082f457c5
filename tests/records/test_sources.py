"""Where rows come from beside plain files: folders of `datasets`, the hub, and columns by other names."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.records import hub_rows
from mgh_ds.records.commands import convert_command
from mgh_ds.records.convert import open_input, records_of
from mgh_ds.records.convert import renaming as renaming_module
from mgh_ds.records.convert.renaming import parse_columns
from mgh_ds.records.convert.settings import Settings
from mgh_ds.records.export import export
from mgh_ds.records.rows import ErrorReport
from mgh_ds.records.schema import Record
from mgh_ds.records.sources import Origin
from mgh_ds.records.store import Store, StoreWriter
from tests.records.examples import make_records, write_jsonl

FORMAT = "sentence-transformers"
README = """---
configs:
- config_name: pair
  data_files:
  - split: train
    path: pair/train-*
  - split: dev
    path: pair/dev-*
- config_name: triplet
  data_files:
  - split: train
    path: triplet/train-*
---
"""


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture(scope="module")
def datasets() -> Any:
    return pytest.importorskip("datasets")


def table(*queries: str, **more: str) -> pa.Table:
    rows = {"anchor": list(queries), "positive": [f"to {query}" for query in queries]}
    return pa.table(rows | {name: [value] * len(queries) for name, value in more.items()})


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of a repository of the hub, with two configs."""
    folder = tmp_path / "some-pairs"
    for name, rows in {
        "pair/train-00000-of-00002": table("a", "b"),
        "pair/train-00001-of-00002": table("c"),
        "pair/dev-00000-of-00001": table("d"),
        "triplet/train-00000-of-00001": table("e", negative="n", made="x"),
    }.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path)
    (folder / "README.md").write_text(README)
    return folder


@pytest.fixture
def hub(repository: Path, datasets: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The hub has `owner/some-pairs`: the calls for it are kept, and read from the copy."""
    calls: list[tuple[Any, ...]] = []
    load = datasets.load_dataset

    def load_dataset(
        name: str, config: str | None, *, split: str, revision: str | None, streaming: bool
    ) -> Any:
        assert streaming
        calls.append((name, config, split, revision))
        return load(str(repository), config, split=split, streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def rows_of(origin: Origin, **said: Any) -> tuple[list[Record], ErrorReport]:
    report = ErrorReport()
    settings = Settings(instruction="i", **said)
    return list(records_of(open_input(origin, FORMAT), FORMAT, settings, report)), report


def queries(place: str | Path, **origin: Any) -> list[str]:
    return [record.query for record in rows_of(Origin(place, **origin))[0]]


def test_a_name_on_the_hub(hub: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = {"config": "triplet", "revision": "v1.1", "instruction": "i"}
    convert_command("owner/some-pairs", tmp_path / "store", FORMAT, **options)
    assert hub == [("owner/some-pairs", "triplet", "train", "v1.1")]
    assert "1 rows read, 1 accepted, 0 refused" in (out := capsys.readouterr().out)
    assert "Keys that this format does not use: made (1 rows)" in out
    [record] = store = Store.open(tmp_path / "store")
    assert (record.query, record.negatives[0].text) == ("e", "n")
    assert record.source == {"dataset": "some-pairs", "file": "some-pairs", "line": "1"}
    notes = store.manifest.notes["conversion"]
    assert {key: notes[key] for key in ("hub", "config", "revision")} == {
        "hub": "owner/some-pairs", "config": "triplet", "revision": "v1.1",
    }  # fmt: skip


@pytest.mark.usefixtures("hub")
def test_the_split_of_a_name():
    assert queries("owner/some-pairs", config="pair") == ["a", "b", "c"]
    assert queries("owner/some-pairs", config="pair", split="dev") == ["d"]
    with pytest.raises(
        MghError, match=r"cannot be read: ValueError: Config name is missing.*'pair', 'triplet'"
    ):
        queries("owner/some-pairs")
    with pytest.raises(MghError, match=r"Available splits: \['train', 'dev'\]"):
        queries("owner/some-pairs", config="pair", split="test")


@pytest.mark.usefixtures("hub")
def test_the_hub_is_read_as_it_is_asked_for(repository: Path, monkeypatch: pytest.MonkeyPatch):
    """Rows come while the rest is still out of reach, and what fails on the way is said."""
    monkeypatch.setattr(hub_rows, "BATCH_ROWS", 1)
    rows = open_input(Origin("owner/some-pairs", "pair"), FORMAT).read(ErrorReport(), lambda _: None, bool)
    assert next(rows).values["anchor"] == "a"
    (repository / "pair" / "train-00001-of-00002.parquet").unlink()
    assert next(rows).line == 2
    with pytest.raises(
        MghError, match=r"owner/some-pairs is nothing here, and could not be reached .*--from COPY"
    ):
        next(rows)


def test_a_hub_that_cannot_be_reached(datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """For real, without the network being asked."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MghError) as error:
        convert_command("owner/some-pairs", tmp_path / "store", FORMAT)
    message = str(error.value)
    assert message.startswith(
        "owner/some-pairs is nothing here, and could not be reached on the hub: Connection"
    )
    assert "hf download owner/some-pairs --repo-type dataset --local-dir COPY" in message
    assert "save_to_disk" in message
    assert "Parquet, Arrow, CSV or JSONL files" in message
    assert not message.count("\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["nowhere", "data/nowhere.jsonl", "/no/where", "a/b/c", Path("owner/name")])
def test_what_can_be_no_name_is_a_path_that_is_missing(place: str | Path):
    with pytest.raises(MghError, match="does not exist: check the path"):
        open_input(Origin(place), FORMAT)


def test_an_output_that_is_there_is_refused_before_anything_is_fetched(
    hub: list[tuple[Any, ...]], tmp_path: Path
):
    (tmp_path / "store").mkdir()
    with pytest.raises(MghError, match="exists already"):
        convert_command("owner/some-pairs", tmp_path / "store", FORMAT, config="pair")
    assert hub == []


@pytest.mark.usefixtures("datasets")
def test_a_copy_of_a_repository(repository: Path):
    assert queries(repository, config="pair") == ["a", "b", "c"]
    assert queries(repository, config="pair", split="dev") == ["d"]
    [record], _ = rows_of(Origin(repository, "triplet"))
    assert record.source["dataset"] == "some-pairs"
    with pytest.raises(MghError, match=r"by config and split: ValueError: BuilderConfig 'pairs' not found"):
        queries(repository, config="pairs")
    with pytest.raises(MghError, match=r"some-pairs is a path here"):
        queries(repository, revision="main")
    assert queries(repository / "triplet") == ["e"], "a folder is read as it lies where nothing is asked"
    with pytest.raises(MghError, match="choose part of a folder"):
        queries(repository / "pair" / "dev-00000-of-00001.parquet", split="dev")


def test_folders_that_datasets_saved(datasets: Any, tmp_path: Path):
    made = datasets.Dataset(table("a", "b", "c", made="x"))
    made.save_to_disk(tmp_path / "one", num_shards=2)
    found, report = rows_of(Origin(tmp_path / "one"))
    assert [(record.query, record.source["line"]) for record in found] == [("a", "1"), ("b", "2"), ("c", "3")]
    assert {(record.source["dataset"], record.source["file"]) for record in found} == {("one", "one")}
    assert (report.rows_read, report.ignored_keys) == (3, {"made": 3})
    assert open_input(Origin(tmp_path / "one"), FORMAT).notes["files"] == [
        "one/data-00000-of-00002.arrow", "one/data-00001-of-00002.arrow",
    ]  # fmt: skip
    splits = datasets.DatasetDict(train=made.select([2, 0]), test=made.select([1]))
    splits.save_to_disk(tmp_path / "two")
    assert queries(tmp_path / "two") == ["c", "a"]
    assert queries(tmp_path / "two", split="test") == queries(tmp_path / "two" / "test") == ["b"]
    assert rows_of(Origin(tmp_path / "two"))[0][0].source["dataset"] == "two"
    for place, asked, message in (
        ("two", {"split": "dev"}, "no split 'dev': --split must be one of train, test"),
        ("one", {"split": "train"}, "without splits"),
        ("one", {"config": "pair"}, "leave --config out"),
    ):
        with pytest.raises(MghError, match=message):
            queries(tmp_path / place, **asked)


def test_a_saved_folder_that_is_damaged(tmp_path: Path):
    """Names files outside it, lacks one, or picks its rows."""
    folder = tmp_path / "saved"
    folder.mkdir()
    for state, message in (
        ({"_data_files": [{"filename": "../a.arrow"}]}, "nothing that lies beside it"),
        ({"_data_files": [{"filename": "a.arrow"}]}, "a.arrow does not exist"),
        ({"_data_files": "a"}, "names no files"),
        ([], "names no files"),
        ({"_data_files": [], "_indices_data_files": [{"filename": "i"}]}, "by an index"),
    ):
        (folder / "state.json").write_text(json.dumps(state))
        with pytest.raises(MghError, match=message):
            queries(folder)


def test_what_export_saved_comes_back(tmp_path: Path):
    with StoreWriter(tmp_path / "store") as writer:
        for record in make_records(5):
            writer.add(record)
    export(tmp_path / "store", tmp_path / "saved", "datasets")
    convert_command(tmp_path / "saved", tmp_path / "again", "mgh")
    assert list(Store.open(tmp_path / "again")) == make_records(5)


def renamed(path: Path, **columns: str) -> tuple[list[tuple[str, str, list[str]]], ErrorReport]:
    found, report = rows_of(Origin(path), columns=columns)
    return [(r.query, r.positive, [n.text for n in r.negatives]) for r in found], report


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_columns_by_other_names(tmp_path: Path, name: str):
    rows = [{"question": f"q{n}", "answer": f"p{n}", "positive": "x", "wrong": f"n{n}"} for n in range(2)]
    path = tmp_path / name
    if name == "a.jsonl":
        write_jsonl(path, rows)
    elif name == "a.csv":
        path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    found, report = renamed(path, anchor="question", positive="answer", negative_1="wrong")
    assert found == [("q0", "p0", ["n0"]), ("q1", "p1", ["n1"])]
    assert report.ignored_keys == {"positive": 2}
    found, _ = renamed(path, anchor="answer", positive="answer")
    assert found == [("p0", "p0", []), ("p1", "p1", [])], "a column may be several of the format's"


def test_a_column_that_is_nowhere_is_a_slip_of_the_pen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows: list[dict[str, str]] = [{"anchor": f"q{n}", "positive": "p"} for n in range(6)]
    rows[4]["wrong"] = "n"
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert [negatives for *_, negatives in renamed(path, negative="wrong")[0]] == [[], [], [], [], ["n"], []]
    message = r"none of the first 6 rows of .*a.jsonl has a column 'worng'; there are anchor, positive, wrong"
    with pytest.raises(MghError, match=message):
        renamed(path, negative="worng")
    monkeypatch.setattr(renaming_module, "PATIENCE", 3)
    with pytest.raises(MghError, match="none of the first 3 rows"):
        renamed(path, negative="wrong")


def test_columns_are_named_by_the_command(tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "p"}])
    columns = ["anchor=question", "positive=answer"]
    convert_command(path, tmp_path / "store", FORMAT, columns=columns, instruction="i")
    assert [record.query for record in Store.open(tmp_path / "store")] == ["q"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["query"], "takes NAME=COLUMN, such as query=question, found 'query'"),
        (["=a"], "takes NAME=COLUMN"),
        (["a=b", "a=c"], "names 'a' twice"),
        (["query=question"], "format 'sentence-transformers' uses no 'query'"),
    ],
)
def test_columns_that_are_refused(tmp_path: Path, columns: list[str], message: str):
    path = write_jsonl(tmp_path / "a.jsonl", [{"question": "q"}])
    with pytest.raises(MghError, match=message):
        renamed(path, **parse_columns(columns))
