"""Texts of whatever kind of file become a store, one record a text, once and in order; what is none is
refused."""

import gzip
from pathlib import Path

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.records.schema import MAX_TEXT_CHARS
from mgh_ds.records.store import Store, StoreWriter
from mgh_ds.records.texts import open_texts
from tests.records.examples import make_records, record_values, write_jsonl


def texts(store: Store) -> list[str]:
    records = list(store)
    assert [record.query for record in records] == [record.positive for record in records]
    return [record.query for record in records]


def test_lines_of_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "plain.txt"
    path.write_bytes("first line\n\n  = Heading = \nfirst line\nä\0b\r\n".encode())
    assert texts(open_texts(path, tmp_path / "cache")) == ["first line", "= Heading =", "äb"]
    packed = tmp_path / "packed.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert texts(open_texts(packed, tmp_path / "cache")) == ["first line", "= Heading =", "äb"]


def test_lines_are_put_together_and_long_ones_cut_between_words(tmp_path: Path) -> None:
    path = tmp_path / "plain.txt"
    path.write_text("one two\nthree\n\nfour five six seven eight\nninetyninehundred\nx\n")
    found = texts(open_texts(path, tmp_path / "cache", chars=13))
    assert found == ["one two\nthree", "four five six", "seven eight", "ninetyninehun", "dred", "x"]


def test_a_text_longer_than_a_record_takes_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("a" * (MAX_TEXT_CHARS + 3))
    assert [len(text) for text in texts(open_texts(path, tmp_path / "cache"))] == [MAX_TEXT_CHARS, 3]


def test_rows_records_and_stores(tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": " a text ", "id": 7}, {"text": "another"}])
    assert texts(open_texts(rows, tmp_path / "cache")) == ["a text", "another"]

    records = make_records(2)
    path = write_jsonl(tmp_path / "mgh.jsonl", [record_values(0), record_values(1)])
    with StoreWriter(tmp_path / "store") as writer:
        for record in records:
            writer.add(record)
    for source in (path, tmp_path / "store"):
        found = texts(open_texts(source, tmp_path / "cache", parts=["positive", "negatives"]))
        expected = [[each.positive, *(negative.text for negative in each.negatives)] for each in records]
        assert found == [text for some in expected for text in some]
        assert len(open_texts(source, tmp_path / "cache", parts=["query"])) == 2
    assert len(open_texts("sample:held_out", tmp_path / "cache")) > 108


def test_a_source_is_read_once_and_anew_when_it_changes(tmp_path: Path) -> None:
    path, cache = tmp_path / "plain.txt", tmp_path / "cache"
    path.write_text("one\ntwo\n")
    first = open_texts(path, cache)
    before = (first.path / "manifest.json").stat()
    assert open_texts(path, cache).path == first.path
    assert (first.path / "manifest.json").stat().st_mtime_ns == before.st_mtime_ns
    assert open_texts(path, cache, chars=3).path != first.path
    path.write_text("one\nthree\n")
    assert texts(open_texts(path, cache)) == ["one", "three"]
    assert texts(first) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"\n \n", "empty.txt holds no text to learn from"),
        ("empty.jsonl", b"", "empty.jsonl holds no text to learn from"),
        ("latin.txt", b"good\nb\xe4d\n", "latin.txt, line 2, field 'row': Row is not valid UTF-8"),
        ("rows.jsonl", b'{"title": "no"}\n', "line 1, field 'text': Row should have a text, or be a record"),
        ("rows.jsonl", b'{"text": 3}\n', "Text should be a string, found int"),
        ("rows.jsonl", b'{"query": "alone"}\n', "line 1, field 'id'"),
    ],
)
def test_what_holds_no_text_is_refused_and_leaves_nothing(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MghError, match=words):
        open_texts(tmp_path / name, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MghError, match=r"nowhere\.txt does not exist: give a text file"):
        open_texts(tmp_path / "nowhere.txt", tmp_path / "cache")


def test_half_a_character_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "whole"}\n{"text": "\\ud800 half"}\n')
    with pytest.raises(MghError, match=r"rows\.jsonl.*2.*half a character"):
        open_texts(path, tmp_path / "cache")


def test_of_a_table_the_text_alone_is_read_and_an_empty_cell_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "pages.csv"
    path.write_text("url,text,url\na,first page,b\nc,,d\ne,second page,f\n")
    assert texts(open_texts(path, tmp_path / "cache")) == ["first page", "second page"]
