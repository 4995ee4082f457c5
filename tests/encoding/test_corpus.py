"""What a corpus may be kept in, and what is refused with its place."""

import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.encoding import texts as texts_module
from mgh_ds.encoding.corpus import Corpus
from mgh_ds.encoding.texts import in_parts, survey
from tests.records.examples import write_jsonl

ROWS = [
    {"_id": "a", "title": "Tides", "text": "The sea comes and goes."},
    {"_id": "b", "title": "", "text": " A text without a title. "},
    {"_id": "c", "title": "A title alone", "text": ""},
]
READ = [("a", "Tides The sea comes and goes."), ("b", "A text without a title."), ("c", "A title alone")]


def read(path, side="document"):
    return [(text.id, text.text) for text in Corpus(path, side)]


def test_rows_of_any_file_are_read_in_their_order(tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "table.parquet")
    (tmp_path / "array.json").write_text(json.dumps(ROWS))
    for name in ("packed.jsonl.gz", "table.parquet", "array.json"):
        assert read(tmp_path / name) == READ
    numbered = write_jsonl(tmp_path / "numbers.jsonl", [{"id": 7, "text": "seven"}])
    assert read(numbered) == [("7", "seven")]
    both = write_jsonl(tmp_path / "both.jsonl", [{"_id": None, "id": "eight", "text": "8"}])
    assert read(both) == [("eight", "8")]


def test_a_folder_is_its_files_and_a_beir_folder_the_one_of_its_side(tmp_path):
    (tmp_path / "plain").mkdir()
    write_jsonl(tmp_path / "plain" / "1.jsonl", ROWS[:1])
    write_jsonl(tmp_path / "plain" / "2.jsonl", ROWS[1:])
    assert read(tmp_path / "plain") == READ
    (tmp_path / "beir" / "qrels").mkdir(parents=True)
    write_jsonl(tmp_path / "beir" / "corpus.jsonl", ROWS)
    with pytest.raises(MghError, match=r"has no queries\.jsonl"):
        read(tmp_path / "beir", "query")
    write_jsonl(tmp_path / "beir" / "queries.jsonl", [{"_id": "q", "text": "When is high tide?"}])
    assert read(tmp_path / "beir") == READ
    assert read(tmp_path / "beir", "query") == [("q", "When is high tide?")]


def test_a_saved_data_set_is_read_in_its_order_and_several_splits_are_refused(tmp_path):
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "saved", num_shards=2)
    assert read(tmp_path / "saved") == READ
    data.select([2, 0]).save_to_disk(tmp_path / "chosen")
    assert read(tmp_path / "chosen") == [READ[2], READ[0]]
    datasets.DatasetDict(train=data).save_to_disk(tmp_path / "splits")
    with pytest.raises(MghError, match=r"several splits.*train"):
        read(tmp_path / "splits")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"_id": "d", "text": " "}, "field 'text' is empty"),
        ({"_id": "d", "text": None}, "field 'text' is empty"),
        ({"_id": "d"}, "there is no field 'text'"),
        ({"_id": "d", "text": 3}, "field 'text' must be a text"),
        ({"text": "no id"}, "there is no field '_id' or 'id'"),
        ({"_id": None, "text": "no id"}, "field '_id' or 'id' must be a text or a number, found null"),
        ({"_id": "d", "text": "half \ud800"}, "half of a character"),
        ({"_id": "d", "text": "a\0b"}, "field 'text' holds a NUL character"),
        ({"_id": "d\0", "text": "a"}, "field '_id' holds a NUL character"),
    ],
)
def test_a_bad_row_is_refused_with_file_line_and_reason(tmp_path, row, reason):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in [*ROWS, row]))
    with pytest.raises(MghError, match=rf"corpus\.jsonl, line 4: .*{reason}"):
        survey(Corpus(path))


def test_an_id_that_occurs_twice_is_refused_with_both_places(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "corpus.jsonl", [*ROWS, {"_id": "b", "text": "another"}])
    with pytest.raises(MghError, match=r"line 4: id 'b' is that of .*corpus\.jsonl, line 2 too"):
        survey(Corpus(path))
    # Ids that merely share their hash are sound.
    monkeypatch.setattr(texts_module, "hash64", lambda _: 5)
    assert survey(Corpus(write_jsonl(tmp_path / "sound.jsonl", ROWS))).count == 3


def test_an_empty_corpus_is_refused(tmp_path):
    with pytest.raises(MghError, match="holds no rows"):
        survey(Corpus(write_jsonl(tmp_path / "corpus.jsonl", [])))


def test_the_survey_knows_order_texts_ids_and_instructions(tmp_path):
    path = write_jsonl(tmp_path / "corpus.jsonl", ROWS)
    found = {survey(Corpus(path)), survey(Corpus(path, instruction="Find it."))}
    for rows in (ROWS[::-1], [{**ROWS[0], "_id": "z"}, *ROWS[1:]], [{**ROWS[0], "text": "z"}, *ROWS[1:]]):
        found.add(survey(Corpus(write_jsonl(tmp_path / "corpus.jsonl", rows))))
    assert len(found) == 5


def test_parts_are_blocks_of_texts_that_follow_one_another():
    assert list(in_parts(range(5), 2)) == [(0, [0, 1]), (1, [2, 3]), (2, [4])]
    assert list(in_parts(range(4), 2)) == [(0, [0, 1]), (1, [2, 3])]
