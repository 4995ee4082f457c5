"""What people have is read whole or refused with the cause, and what is not read is named."""

import bz2
import csv
import datetime
import gzip
import json
import lzma
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from mgh_ds.common.errors import MghError
from mgh_ds.records import json_rows
from mgh_ds.records.commands import convert_command, validate_command
from mgh_ds.records.convert import convert, records_of
from mgh_ds.records.convert.settings import Settings
from mgh_ds.records.inputs import ending, input_files, stem
from mgh_ds.records.reader import read_records, read_rows
from mgh_ds.records.rows import ErrorReport, Row
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store, open_or_convert
from mgh_ds.records.streams import BLOCK
from tests.records.examples import make_records, record_values, write_jsonl

PAIRS = [{"anchor": f"a{number}", "positive": f"p{number}"} for number in range(4)]


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


def rows_of(path: Path) -> tuple[list[Row], ErrorReport]:
    report = ErrorReport()
    return list(read_rows(path, report)), report


def converted(path: Path, format: str = "sentence-transformers") -> tuple[list[Record], ErrorReport]:
    report = ErrorReport()
    return list(records_of(path, format, Settings(instruction="i"), report)), report


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_a_folder_is_read_whole_and_what_is_not_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "more.jsonl").write_text(lines(PAIRS))

    def pairs(start: int) -> list[dict[str, str]]:
        return [{"anchor": f"a{number}", "positive": f"p{number}"} for number in range(start, start + 4)]

    (folder / "a.jsonl").write_text(lines(pairs(0)))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines(pairs(4)).encode()))
    (folder / "c.JSONL").write_text(lines(pairs(8)))
    (folder / "d.json").write_text(json.dumps(pairs(12), indent=2))
    (folder / "e.ndjson").write_text(lines(pairs(16)))
    (folder / "dataset_infos.json").write_text(json.dumps({"default": {"splits": []}}, indent=2))
    (folder / "README.md").write_text("not data")
    (folder / "x.parquet.gz").write_bytes(gzip.compress(b"PAR1"))
    convert_command(folder, tmp_path / "store", "sentence-transformers", instruction="i")
    out = capsys.readouterr().out
    assert "20 rows read, 20 accepted, 0 refused" in out
    assert (
        "Not read: README.md has another ending; dataset_infos.json is one JSON object: rows are an array of "
        "objects, or an object a line; test is a folder; x.parquet.gz has another ending"
    ) in out
    store = Store.open(tmp_path / "store")
    assert {record.query for record in store} == {f"a{number}" for number in range(20)}
    notes = store.manifest.notes["conversion"]
    assert notes["files"] == ["a.jsonl", "b.jsonl.gz", "c.JSONL", "d.json", "e.ndjson"]
    assert list(notes["not_read"]) == ["README.md", "dataset_infos.json", "test", "x.parquet.gz"]
    validate_command(folder, "sentence-transformers")
    assert "test is a folder" in capsys.readouterr().out


def test_a_folder_without_data_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(MghError, match=r"no file ending in .*\. What it has: train is a folder"):
        input_files(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind", "dataset"),
    [
        ("SNLI.jsonl.gz", ".jsonl", "SNLI"),
        ("nq.JSON.GZ", ".json", "nq"),
        ("a.b.tsv", ".tsv", "a.b"),
        ("t.Parquet", ".parquet", "t"),
        ("t.parquet.gz", None, "t.parquet"),
        ("nq.csv.zst", ".csv", "nq"),
        ("nq.jsonl.BZ2", ".jsonl", "nq"),
        ("t.xz", None, "t"),
        ("t.feather", ".feather", "t"),
        ("t.arrow.gz", None, "t.arrow"),
        ("notes.txt", None, "notes"),
        ("jsonl", None, "jsonl"),
    ],
)
def test_endings(name: str, kind: str | None, dataset: str) -> None:
    assert (ending(Path(name)), stem(Path(name))) == (kind, dataset)


@pytest.mark.parametrize(
    ("ending", "pack"),
    [(".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstd)],
)
def test_other_packers(tmp_path: Path, ending: str, pack: Any) -> None:
    (tmp_path / "data").mkdir()
    half = len(lines(PAIRS[:2]))
    content = lines(PAIRS).encode()
    # Two streams in a row, as parallel packers write them; the table's first one has a byte order mark.
    (tmp_path / "data" / f"a.jsonl{ending}").write_bytes(pack(content[:half]) + pack(content[half:]))
    (tmp_path / "data" / f"b.csv{ending}").write_bytes(
        pack("\ufeffanchor,positive\nb,q\n".encode("utf-16-le"))
    )
    steps: list[int] = []
    found = list(
        records_of(
            tmp_path / "data", "sentence-transformers", Settings(instruction="i"), ErrorReport(), steps.append
        )
    )
    assert [record.positive for record in found] == ["p0", "p1", "p2", "p3", "q"]
    assert {record.source["dataset"] for record in found} == {"a", "b"}
    assert sum(steps) == sum(file.stat().st_size for file in (tmp_path / "data").iterdir())


def test_memory_does_not_grow_with_a_packed_file(tmp_path: Path) -> None:
    filler = "word " * 800
    path = tmp_path / "a.jsonl.zst"
    rows = [{"query": f"{number}", "positive": filler, "negative": "n"} for number in range(2_000)]
    path.write_bytes(zstd(lines(rows).encode()))
    del rows
    tracemalloc.start()
    count = sum(1 for _ in read_rows(path, ErrorReport()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 2_000
    assert peak < 4 * 2**20, f"{peak:,} bytes, of which the texts are 8 million"


@pytest.mark.parametrize("name", ["a.arrow", "b.arrow", "c.feather"])
def test_arrow_in_both_of_its_formats(tmp_path: Path, name: str) -> None:
    rows = {"anchor": ["a0", "a1", None], "positive": ["p0", "p1", "p2"], "made": [datetime.date.min] * 3}
    table = pa.table(rows)
    path = tmp_path / name
    if name == "c.feather":
        feather.write_feather(table, path, compression="zstd")
    else:
        writer = pa.ipc.new_stream if name == "a.arrow" else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as file, writer(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=1)
    found, report = converted(path)
    assert [(record.query, record.source["line"]) for record in found] == [("a0", "1"), ("a1", "2")]
    assert (report.rows_read, dict(report.reasons)) == (3, {("anchor", "string_type"): 1})
    assert report.ignored_keys == {"made": 3}


def test_labels_mean_what_their_data_set_calls_them(tmp_path: Path) -> None:
    """Its numbers are in an order of its own, which `datasets` notes in the file."""
    names = ["contradiction", "entailment", "neutral"]
    note = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}, "premise": None}}}
    columns = {"premise": ["p"] * 4, "hypothesis": ["e", "n", "c", "x"], "label": [1, 2, 0, -1]}
    path = tmp_path / "nli.parquet"
    pq.write_table(pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(note)}), path)
    found, report = converted(path, "nli")
    assert [(r.positive, [(n.text, n.level) for n in r.negatives]) for r in found] == [
        ("e", [("n", 2), ("c", 4)])
    ]
    assert dict(report.reasons) == {("label", "literal_error"): 1}
    for other in ("no JSON", "[]", '{"info": {"features": {"label": {"_type": "ClassLabel"}}}}'):
        pq.write_table(pa.table(columns).replace_schema_metadata({"huggingface": other}), path)
        assert converted(path, "nli")[0][0].positive == "c", "the order that the hub's NLI has"


def test_a_packed_files_name_is_its_data_sets(tmp_path: Path) -> None:
    path = tmp_path / "SNLI.jsonl.gz"
    path.write_bytes(gzip.compress(lines([{"query": "q", "positive": "p", "negative": "n"}]).encode()))
    [record], _ = converted(path, "llm2vec")
    assert record.source["dataset"] == "SNLI"


def test_records_to_train_on_may_be_packed(tmp_path: Path) -> None:
    plain = write_jsonl(tmp_path / "own.jsonl", [record_values(number) for number in range(3)])
    packed = tmp_path / "own.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(open_or_convert(packed, tmp_path / "cache")) == make_records(3)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str, name: str) -> None:
    text = {
        "a.jsonl": lines(PAIRS),
        "a.json": json.dumps(PAIRS),
        "a.csv": "anchor,positive\n" + "".join(f"{row['anchor']},{row['positive']}\n" for row in PAIRS),
    }[name]
    text = text.replace("p3", "naïve 🌍")
    path = tmp_path / name
    path.write_bytes(("\ufeff" + text).encode(encoding))
    found, _ = converted(path)
    assert [record.positive for record in found] == ["p0", "p1", "p2", "naïve 🌍"]


def test_characters_of_utf16_may_lie_across_blocks_and_lone_surrogates_refuse_their_row(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.jsonl"
    long = "🌍" * (BLOCK // 4)  # odd bytes before it, so that one of them lies across a block's end
    row = json.dumps({"anchor": long, "positive": "p"}, ensure_ascii=False)
    broken = row.replace("🌍", "\ud83c", 1)
    text = f"{row}\n{broken}\n{row}\n"
    path.write_bytes(b"\xff\xfe" + text.encode("utf-16-le", "surrogatepass"))
    rows, report = rows_of(path)
    assert [row.values["anchor"] == long for row in rows] == [True, True]
    assert report.reasons == {("row", "not_utf8"): 1}


def test_progress_of_a_packed_file_adds_up_to_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines([record_values(number) for number in range(3)]).encode()))
    steps: list[int] = []
    list(read_records(path, ErrorReport(), steps.append))
    assert sum(steps) == path.stat().st_size


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("a.jsonl.gz", gzip.compress(lines(PAIRS).encode(), mtime=0)[:-12], "damaged or cut short"),
        (
            "a.jsonl.gz",
            gzip.compress(lines(PAIRS).encode(), mtime=0)[:-8] + bytes(8),
            "damaged or cut short: CRC",
        ),
        ("a.jsonl.gz", gzip.compress(b"(\xb5/\xfd", mtime=0), "packed more than once"),
        ("a.jsonl.gz", gzip.compress(gzip.compress(b"{}"), mtime=0), "packed more than once"),
        ("a.jsonl", b"BZh91AY", "damaged or cut short"),
        ("a.jsonl", b"\xfd7zXZ\0", "damaged or cut short"),
        ("a.jsonl.bz2", bz2.compress(lines(PAIRS).encode())[:-6], "damaged or cut short"),
        ("a.jsonl.xz", lzma.compress(lines(PAIRS).encode())[:-6], "damaged or cut short"),
        ("a.jsonl.zst", zstd(lines(PAIRS).encode())[:-6], "damaged or cut short: Truncated"),
        ("a.jsonl.zst", zstd(lines(PAIRS).encode())[:40] + bytes(40), "damaged or cut short"),
        ("a.csv", b"PK\x03\x04", "a spreadsheet"),
        ("a.jsonl", b"PAR1", "is a Parquet file: name it"),
        ("a.json", b"ARROW1\0\0", "is an Arrow file: name it"),
        ("a.arrow", b"ARROW1\0\0", "not a readable Arrow file"),
        ("a.feather", b"", "not a readable Arrow file"),
        ("a.arrow", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("a.jsonl", lines(PAIRS).encode("utf-16-le"), "UTF-16 without a byte order mark"),
        ("a.json", json.dumps(PAIRS).encode("utf-16-be"), "UTF-16 without a byte order mark"),
        ("a.csv", "anchor,positive\na,p\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        ("a.jsonl", b"\xff\xfea\0b", "is not whole UTF-16: truncated data"),
        ("a.json", b'{\n "data": []\n}', "is one JSON object: rows are an array"),
        (
            "a.json",
            b'[{"anchor": "a", "positive": "p"}',
            "not a valid JSON array: what follows is no JSON, or it ends after 0",
        ),
        ("a.json", b'[{"anchor": "a", "positive": "p"},', "or it ends after 1 rows"),
        ("a.json", b'[{"anchor": "a"} {"anchor": "b"}]', "a comma is missing after 1 rows"),
        ("a.json", b'[{"anchor": "a"}] {}', "goes on after its end after 1 rows"),
        ("a.json", b"[{'anchor': 'a'}]", "no JSON, or it ends after 0 rows"),
        ("a.json", b"[" * 100_000, "no JSON, or it ends after 0 rows"),
        (
            "a.csv",
            b'anchor,positive\na,p\n"b,p\nc,p\n',
            r"line 3: not a row of cells: unexpected end of data",
        ),
        ("a.csv", b'anchor,positive\n"a" b,p\n', r"line 2: not a row of cells"),
        ("a.csv", b"anchor;positive\na;p\n", "single column, 'anchor;positive': .* separated by commas"),
        ("a.tsv", b"anchor,positive\na,p\n", "separated by tabs"),
        ("a.csv", b"anchor,positive,anchor\na,p,b\n", "has the column 'anchor' twice"),
    ],
    # Compressed bytes are not the same in every process, and workers must agree on names.
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_what_cannot_be_read_is_refused_with_the_cause(
    tmp_path: Path, name: str, content: bytes, cause: str
) -> None:
    path = tmp_path / "data" / name
    path.parent.mkdir()
    path.write_bytes(content)
    for given in (path, path.parent) if b"{\n" not in content else (path,):
        with pytest.raises(MghError, match=cause) as error:
            convert(given, tmp_path / "store", "sentence-transformers", Settings(instruction="i"))
        assert str(path) in str(error.value)
    assert list(tmp_path.iterdir()) == [path.parent]


def test_the_elements_of_an_array_are_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "ARRAY_BLOCK", 7)  # so that elements lie across what is read at once
    path = tmp_path / "a.json"
    bad = ['"text"', "12345678", '{"a": NaN}', '{"a": 1, "a": 2}', '{"anchor": "\\ud800"}', "[1, 2]", "null"]
    elements = [json.dumps(PAIRS[0], indent=1), *bad, json.dumps({"anchor": "]},[{", "positive": '"\\'})]
    path.write_text(" \n[ " + " ,\n".join(elements) + "\n]\n")
    rows, report = rows_of(path)
    assert [(row.line, row.values.get("anchor")) for row in rows] == [(1, "a0"), (6, "\ud800"), (9, "]},[{")]
    assert report.rows_read == 9
    assert dict(report.reasons) == {
        ("row", "not_an_object"): 4,
        ("row", "not_finite"): 1,
        ("a", "duplicate_key"): 1,
    }
    path.write_text("[ ]")
    assert rows_of(path)[0] == []


def test_bytes_of_an_array_that_are_not_utf8_refuse_their_row(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"anchor": "a\xff"}, {"anchor": "b"}]')
    rows, report = rows_of(path)
    assert [row.values for row in rows] == [{"anchor": "b"}]
    assert dict(report.reasons) == {("row", "not_utf8"): 1}


def test_a_json_file_may_have_an_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(lines(PAIRS))
    assert len(converted(path)[0]) == 4
    path.write_text(json.dumps(PAIRS[0]))
    assert len(converted(path)[0]) == 1


def test_a_table_in_text(tmp_path: Path) -> None:
    path = tmp_path / "nli.tsv"
    cells = [
        ["premise", "hypothesis", "label", "note"],
        ["p", 'says "e",\nin two lines', "0", "x"],
        ["p", "n", "neutral", ""],
        [],
        ["p", "c", "2", "x"],
        ["p", "too few", "0"],
        ["p", "", "0", "x"],
        ["p", "no label", "-", "x"],
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(cells)
    found, report = converted(path, "nli")
    assert [record.positive for record in found] == ['says "e",\nin two lines']
    assert [(n.text, n.level) for n in found[0].negatives] == [("n", 2), ("c", 4)]
    assert found[0].source["line"] == "2"
    assert (report.rows_read, report.rejected, report.blank_lines) == (6, 3, 1)
    assert dict(report.reasons) == {
        ("row", "wrong_number_of_cells"): 1,
        ("hypothesis", "string_type"): 1,
        ("label", "literal_error"): 1,
    }
    assert str(report.examples["row", "wrong_number_of_cells"]).startswith(f"{path}, line 7, field 'row'")
    assert report.ignored_keys == {"note": 6}


def test_numbers_of_a_table_in_text_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "sts.csv"
    path.write_text("sentence1,sentence2,score\na,b,4.5\na,c,1\na,d,nan\na,e,many\n")
    found, report = converted(path, "sts")
    assert [(r.positive, [(n.text, n.level) for n in r.negatives]) for r in found] == [("b", [("c", 2)])]
    assert {field for field, _ in report.reasons} == {"score"}
    assert report.rejected == 2


def odd_columns(rows: int) -> dict[str, pa.Array]:
    """Columns whose values Python cannot hold, or this machine cannot name."""
    return {
        "made": pa.array([2**62] * rows, pa.timestamp("us")),
        "seen": pa.array([0] * rows, pa.timestamp("us", tz="Mars/Olympus_Mons")),
    }


def test_of_parquet_only_what_is_used_is_read(tmp_path: Path) -> None:
    columns = {"anchor": pa.array(["a", "b"]), "positive": pa.array(["p", "q"]), "negative_2": ["m", "n"]}
    path = tmp_path / "a.PARQUET"
    pq.write_table(pa.table(columns | odd_columns(2)), path)
    found, report = converted(path)
    assert [(record.query, record.negatives[0].text) for record in found] == [("a", "m"), ("b", "n")]
    assert report.ignored_keys == {"made": 2, "seen": 2}


@pytest.mark.parametrize("name", ["made", "seen"])
def test_a_used_value_that_cannot_be_read_refuses_its_row(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"anchor": ["a"], "positive": odd_columns(1)[name]}), path)
    found, report = converted(path)
    assert (found, dict(report.reasons)) == ([], {("positive", "not_readable"): 1})


def test_parquet_without_a_column_of_use_is_refused_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"question": ["a"], "made": [datetime.date(2024, 1, 1)]}), path)
    found, report = converted(path)
    assert (found, dict(report.reasons)) == ([], {("anchor", "missing"): 1})


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    """Is refused where it is used: one of the two would be left out."""
    path = tmp_path / "a.parquet"
    names = ["anchor", "positive", "positive"]
    pq.write_table(pa.Table.from_arrays([pa.array(["x", "y"])] * 3, names=names), path)
    with pytest.raises(MghError, match=r"a\.parquet has the column 'positive' twice"):
        converted(path)
    pq.write_table(pa.Table.from_arrays([pa.array(["x", "y"])] * 4, names=[*names[:2], "n", "n"]), path)
    assert len(converted(path)[0]) == 2
