"""A corpus as people keep it: documents or queries with their ids.

    a file                   rows with `_id` or `id`, `text` and perhaps `title`, in any of the files of
                             `records.inputs`: JSONL, JSON, CSV, Parquet, Arrow
    a folder of such files   all of them, by name
    a BEIR folder            corpus.jsonl for documents, queries.jsonl for queries
    a `datasets` folder      what `Dataset.save_to_disk` wrote

A document is read as its title, a space, and its text.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mgh_ds.common.errors import MghError
from mgh_ds.common.surrogates import has_lone_surrogate
from mgh_ds.encoding.texts import Text
from mgh_ds.records.inputs import input_files
from mgh_ds.records.instructions import Side
from mgh_ds.records.reader import read_rows
from mgh_ds.records.rows import FirstRefusal, RowRefused, describe
from mgh_ds.records.saved import saved_files, saved_splits

COLUMNS = frozenset({"_id", "id", "title", "text"})
BEIR: dict[Side, str] = {"document": "corpus", "query": "queries"}


class Corpus:
    """The texts of a file or folder, from its beginning at each iteration, one row in memory.

    Raises MghError if there is no file to read, and, while it is read, at the first bad row: one without an
    id or a text, with an empty text, or with half a character or NUL in it.
    """

    def __init__(self, path: Path, side: Side = "document", instruction: str | None = None) -> None:
        """`side` says what is read of a folder in the BEIR layout; all texts are read under `instruction`."""
        self.path = path
        self.files = corpus_files(path, side)
        self._instruction = instruction

    def __iter__(self) -> Iterator[Text]:
        refusal = FirstRefusal()
        empty = True
        for file in self.files:
            for row in read_rows(file, refusal, reads=COLUMNS.__contains__):
                empty = False
                try:
                    name, text = _id(row.values), _text(row.values)
                except RowRefused as refused:
                    refusal.refuse(row, refused)
                yield Text(name, text, self._instruction, f"{row.file}, line {row.line}")
        if empty:
            raise MghError(f"{self.path} holds no rows: a corpus needs at least one")


def corpus_files(path: Path, side: Side) -> list[Path]:
    """The files of the corpus at `path`, in the order in which they are read. Raises MghError if there is
    none, and for a folder of `datasets` that holds several splits."""
    if splits := saved_splits(path):
        raise MghError(f"{path} holds several splits: name one of its folders ({', '.join(splits)})")
    if saved := saved_files(path):
        return saved
    found = input_files(path).files
    if path.is_dir():
        layout = {file.name.split(".")[0]: file for file in found}
        if layout.keys() & set(BEIR.values()):
            if BEIR[side] not in layout:
                raise MghError(f"{path} has no {BEIR[side]}.jsonl, which a {side} would be read from")
            return [layout[BEIR[side]]]
    return found


def _id(values: dict[str, Any]) -> str:
    if not values.keys() & {"_id", "id"}:
        raise RowRefused("_id", "missing", "there is no field '_id' or 'id'")
    name = values.get("_id")
    if name is None:
        name = values.get("id")
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    if not isinstance(name, str) or not name:
        raise RowRefused(
            "_id", "no_id", f"field '_id' or 'id' must be a text or a number, found {describe(name)}"
        )
    return _whole(name, "_id")


def _text(values: dict[str, Any]) -> str:
    if "text" not in values:
        raise RowRefused("text", "missing", "there is no field 'text'")
    title, text = values.get("title") or "", values["text"]
    for name, value in (("title", title), ("text", text)):
        if not isinstance(value, str | None):
            raise RowRefused(name, "no_text", f"field '{name}' must be a text, found {describe(value)}")
    joined = f"{title} {text or ''}".strip()
    if not joined:
        raise RowRefused("text", "empty", "field 'text' is empty: leave the row out, or give it a text")
    return _whole(joined, "text")


def _whole(text: str, name: str) -> str:
    if has_lone_surrogate(text):
        raise RowRefused(name, "not_utf8", f"field '{name}' holds half of a character")
    if "\x00" in text:
        raise RowRefused(name, "nul_character", f"field '{name}' holds a NUL character")
    return text
