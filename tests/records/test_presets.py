"""Each preset on a small file of the schema that its data has, and what the table of presets promises."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.records.commands import convert_command, presets_command
from mgh_ds.records.formats import FORMATS
from mgh_ds.records.instructions import INSTRUCTIONS
from mgh_ds.records.presets import PRESETS
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store
from tests.records.examples import write_jsonl

TRIPLET = {"anchor": "a", "positive": "p", "negative": "n"}
MSMARCO = {"query": "a", "positive": "p", "negative": "n"}
MINED = {"query": "a", "positive": "p", **{f"negative_{number}": f"n{number}" for number in range(1, 51)}}

# Preset → rows with the columns of the config that it names.
ROWS: dict[str, list[dict[str, Any]]] = {
    "nli": [{"premise": "a", "hypothesis": text, "label": label} for label, text in enumerate("pmn")],
    "nli-triplets": [TRIPLET],
    "msmarco": [MSMARCO],
    "msmarco-50": [MINED],
    "nq": [{"query": "a", "answer": "p"}],
    "hotpotqa": [TRIPLET],
    "quora": [TRIPLET],
    "gooaq": [{"question": "a", "answer": "p"}],
}
# Preset → (subtype, negatives with their levels); of the others short-long, and one that is not graded.
MADE: dict[str, tuple[str, list[tuple[str, int | None]]]] = {
    "nli": ("short-short", [("m", 2), ("n", 4)]),
    "nli-triplets": ("short-short", [("n", None)]),
    "msmarco-50": ("short-long", [(f"n{number}", None) for number in range(1, 51)]),
    "nq": ("short-long", []),
    "quora": ("paraphrase", [("n", None)]),
    "gooaq": ("short-long", []),
}


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


def converted(name: str, copy: Path, **options: Any) -> list[Record]:
    store = copy.parent / f"store-{name}"
    convert_command(name, store, copy=copy, on_error="stop", **options)
    assert Store.open(store).manifest.notes["conversion"]["preset"] == name
    return list(Store.open(store))


def check(name: str, records: list[Record]) -> None:
    [record] = records
    assert (record.query, record.positive) == ("a", "p")
    subtype, negatives = MADE.get(name, ("short-long", [("n", None)]))
    assert [(n.text, n.level) for n in record.negatives] == negatives
    known = PRESETS[name].settings.dataset
    assert known is not None
    assert record.task.instruction == INSTRUCTIONS[known].text
    assert record.task.subtype == subtype
    assert record.source["dataset"] == known


@pytest.mark.parametrize("name", ROWS)
def test_a_preset_from_a_copy(tmp_path: Path, name: str) -> None:
    """A file, and the folder that its config has in a repository of the hub."""
    pytest.importorskip("datasets")
    preset = PRESETS[name]
    repository = tmp_path / "repository"
    files = {config: repository / str(config) for config in (preset.config, "another")}
    for config, folder in files.items():
        folder.mkdir(parents=True)
        rows = ROWS[name] if config == preset.config else [{"text": "of another config"}]
        pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    listed = [
        f"- config_name: {config}\n  data_files:\n  - split: train\n    path: {config}/train-*\n"
        for config in files
    ]
    (repository / "README.md").write_text(f"---\nconfigs:\n{''.join(listed)}---\n")
    check(name, converted(name, repository))
    check(name, list(_again(name, write_jsonl(tmp_path / "rows.jsonl", ROWS[name]), tmp_path / "lines")))


def _again(name: str, copy: Path, store: Path) -> Store:
    convert_command(name, store, copy=copy)
    return Store.open(store)


def test_fever_from_beirs_folder(tmp_path: Path) -> None:
    folder = tmp_path / "fever"
    (folder / "qrels").mkdir(parents=True)
    write_jsonl(folder / "corpus.jsonl", [{"_id": "Page", "title": "p", "text": "of it", "metadata": {}}])
    write_jsonl(folder / "queries.jsonl", [{"_id": "1", "text": "a", "metadata": {}}])
    for split, judged in (("train", "1\tPage\t1\n"), ("test", "")):
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    [record] = converted("fever", folder)
    assert (record.query, record.positive, record.negatives) == ("a", "p of it", [])
    assert record.task.instruction == INSTRUCTIONS["fever"].text


def test_the_e5_mix_is_told_by_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "echo-data"
    folder.mkdir()
    names = [name for name in INSTRUCTIONS if re.fullmatch(r"[a-z0-9_]+", name)]
    files = {"msmarco_passage", "nq", "quora_duplicates", "fever", "allnli", "eli5_question_answer"}
    assert files <= set(names)
    for name in files:
        write_jsonl(folder / f"{name}.jsonl", [MSMARCO | {"query": f"of {name}"}])
    found = {record.source["dataset"]: record.task for record in converted("e5-mix", folder)}
    assert {name: task.instruction for name, task in found.items()} == {
        name: INSTRUCTIONS[name].text for name in files
    }
    assert {name for name, task in found.items() if task.kind == "symmetric"} == {"quora_duplicates"}


def test_the_data_of_bge_m3_is_told_by_its_files(tmp_path: Path) -> None:
    """Data sets lie in folders, cut by length."""
    row = {"query": "a", "pos": ["p", "q"], "neg": [f"n{number}" for number in range(100)]}
    files = ["MSMARCO/msmarco_len-0-500", "MSMARCO/msmarco_len-7000-inf", "MIRACL/miracl_sw_len-0-500"]
    for number, name in enumerate(files):
        path = tmp_path / "bge-m3-data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(path, [row | {"query": f"a{number}"}])
    (tmp_path / "bge-m3-data" / "README.md").write_text("not data")
    found = converted("bge-m3", tmp_path / "bge-m3-data")
    assert [(r.query, r.positive, r.source["dataset"]) for r in found] == [
        ("a2", "p", "miracl_sw"), ("a2", "q", "miracl_sw"),
        ("a0", "p", "msmarco"), ("a0", "q", "msmarco"), ("a1", "p", "msmarco"), ("a1", "q", "msmarco"),
    ]  # fmt: skip
    assert {r.source["dataset"]: r.task.instruction for r in found} == {
        "miracl_sw": PRESETS["bge-m3"].settings.otherwise,
        "msmarco": INSTRUCTIONS["msmarco"].text,
    }
    assert {r.language for r in found} == {"mul"}
    assert {len(r.negatives) for r in found} == {64}


def test_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = write_jsonl(tmp_path / "gooaq.jsonl", ROWS["gooaq"])
    load, asked = datasets.load_dataset, []

    def load_dataset(name: str, config: str, **options: Any) -> Any:
        asked.append((name, config, options["split"], options["revision"]))
        return load("json", data_files=str(path), split="train", streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    convert_command("gooaq", tmp_path / "store", revision="abc")
    assert asked == [("sentence-transformers/gooaq", "pair", "train", "abc")]
    check("gooaq", list(Store.open(tmp_path / "store")))


def test_what_the_user_says_goes_before_what_the_preset_says(tmp_path: Path) -> None:
    copy = write_jsonl(tmp_path / "rows.jsonl", [{"frage": "a", "answer": "p"}])
    options = {"columns": ["anchor=frage"], "instruction": "i", "language": "de", "dataset": "mine"}
    [record] = converted("nq", copy, **options)
    assert (record.query, record.positive, record.task.instruction) == ("a", "p", "i")
    assert (record.language, record.source["dataset"]) == ("de", "mine")


def test_a_data_set_of_another_name_keeps_the_presets_instruction_and_shape(tmp_path: Path) -> None:
    copy = write_jsonl(tmp_path / "rows.jsonl", [TRIPLET])
    [record] = converted("quora", copy, dataset="mine")
    known = INSTRUCTIONS["quora_duplicates"]
    assert (record.source["dataset"], record.task.instruction) == ("mine", known.text)
    assert record.task.kind == "symmetric"


def test_bad_rows_of_a_preset_are_refused_as_ever(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = write_jsonl(tmp_path / "rows.jsonl", [TRIPLET, {"anchor": "a", "positive": None}])
    convert_command("quora", tmp_path / "store", copy=copy)
    assert "2 rows read, 1 accepted, 1 refused" in capsys.readouterr().out


def test_presets_fit_what_they_name() -> None:
    for name, preset in PRESETS.items():
        assert preset.format in FORMATS
        assert bool(preset.hub) == bool(preset.config) != bool(preset.obtain), name
        if preset.settings.dataset:
            assert preset.settings.dataset in INSTRUCTIONS
    covered = {*ROWS, "fever", "e5-mix", "bge-m3"}
    assert covered == PRESETS.keys(), "each has a test of its schema"


def test_the_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    presets_command()
    out = " ".join(capsys.readouterr().out.split())
    assert all(f" {name} " in out for name in PRESETS)
    assert "sentence-transformers/gooaq" in out
    assert "Apache 2.0" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"input": "nil"}, r"--format is missing.*did you mean `nli`\? Formats: mgh, .*Presets: nli, "),
        ({"input": "nil", "copy": Path()}, r"there is none called 'nil'; did you mean `nli`"),
        ({"input": "nli", "copy": Path(), "format": "nli"}, "leave --format out"),
        ({"input": "nq", "copy": Path("nq"), "revision": "abc"}, "--revision is for the hub"),
        ({"input": "nq/records", "format": "nli"}, "there is a folder nq here, which has none of that name"),
        ({"input": "nli", "copy": Path("nowhere")}, "nowhere does not exist: --from is a copy"),
        ({"input": "fever"}, r"'fever' needs a copy, --from FOLDER: BEIR's fever.zip"),
        ({"input": "bge-m3"}, r"needs a copy, --from FOLDER: bge-m3-data.tar.gz of Shitao/bge-m3-data"),
        ({"input": "nq"}, r"--format is missing.*; for the preset of that name, give --from nq"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nq").mkdir()
    with pytest.raises(MghError, match=message):
        convert_command(output=tmp_path / "store", **words)
    assert [path.name for path in tmp_path.iterdir()] == ["nq"]
