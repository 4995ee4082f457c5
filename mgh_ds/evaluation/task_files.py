"""Reads the files of local MTEB tasks. What would make a score wrong or undefined is refused with file and
line, before anything is encoded."""

import csv
import io
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from mgh_ds.common.errors import MghError
from mgh_ds.common.surrogates import has_lone_surrogate
from mgh_ds.records.json_rows import read_lines
from mgh_ds.records.rows import FirstRefusal
from mgh_ds.records.streams import open_utf8

QRELS_COLUMNS = ("query-id", "corpus-id", "score")
LARGEST_INT = 2**63 - 1  # of a data set's column


def read_sts(folder: Path) -> dict[str, Any]:
    """The pairs of `test.jsonl`. Raises MghError where all scores are alike: no correlation is defined."""
    path = folder / "test.jsonl"
    rows = [row for _, row in _read(path, {"sentence1": str, "sentence2": str, "score": float})]
    if len({row["score"] for row in rows}) == 1:
        raise MghError(
            f"{path}: every score is {rows[0]['score']:g}, so that there is nothing to correlate with"
        )
    return DatasetDict(test=Dataset.from_list(rows))


def read_classification(folder: Path) -> dict[str, Any]:
    """The texts of `train.jsonl` and `test.jsonl`. Raises MghError for a label that cannot be learned."""
    train, test = (
        _read(folder / name, {"text": str, "label": int}) for name in ("train.jsonl", "test.jsonl")
    )
    labels = {row["label"] for _, row in train}
    if len(labels) == 1:
        raise MghError(
            f"{folder / 'train.jsonl'}: every label is {labels.pop()}, so that there is nothing to learn"
        )
    for number, row in test:
        if row["label"] not in labels:
            raise MghError(
                f"{folder / 'test.jsonl'}, line {number}: label {row['label']} "
                "is that of no row of train.jsonl"
            )
    return DatasetDict(
        train=Dataset.from_list([row for _, row in train]), test=Dataset.from_list([row for _, row in test])
    )


def read_retrieval(folder: Path) -> dict[str, Any]:
    """Corpus, queries and judgements in the BEIR layout. Raises MghError for an id that occurs twice."""
    corpus = _by_id(folder / "corpus.jsonl", {"_id": str, "title": str, "text": str})
    queries = _by_id(folder / "queries.jsonl", {"_id": str, "text": str})
    relevant = _read_qrels(folder / "qrels" / "test.tsv", queries, corpus)
    # only judged queries are scored, as mteb's own loader does
    judged = [{"id": name, "text": row["text"]} for name, row in queries.items() if name in relevant]
    documents = [{"id": name, "title": row["title"], "text": row["text"]} for name, row in corpus.items()]
    return {
        "test": {
            "corpus": Dataset.from_list(documents),
            "queries": Dataset.from_list(judged),
            "relevant_docs": relevant,
            "top_ranked": None,
        }
    }


def _read_qrels(
    path: Path, queries: Mapping[str, Any], documents: Mapping[str, Any]
) -> dict[str, dict[str, int]]:
    relevant: dict[str, dict[str, int]] = {}
    for number, query, document, score in _judgements(path):
        if query not in queries or document not in documents:
            raise MghError(f"{path}, line {number}: query {query!r} or document {document!r} is in no file")
        before = relevant.setdefault(query, {}).setdefault(document, score)
        if score != before:
            raise MghError(
                f"{path}, line {number}: document {document!r} of query {query!r} has score {score}, "
                f"and in an earlier line {before}"
            )
    if not relevant:
        raise MghError(f"{path} holds no judgement")
    for query, judged in relevant.items():
        if max(judged.values()) <= 0:
            raise MghError(
                f"{path}: query {query!r} has no document with a score above 0, so that no ranking is right: "
                "leave it out"
            )
    return relevant


def _judgements(path: Path) -> Iterator[tuple[int, str, str, int]]:
    """Line, query, document and score."""
    with open_utf8(path) as file:
        # a byte that is no UTF-8 makes an id that is in no file
        text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
        table = csv.DictReader(text, delimiter="\t", strict=True)
        number = 2  # below the header
        try:
            for row in table:
                number = table.line_num
                query, document, score = (row[name] for name in QRELS_COLUMNS)
                yield number, query, document, int(score)
                number += 1
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise MghError(f"{path}, line {number}: expected {', '.join(QRELS_COLUMNS)}; {error!r}") from None


def _by_id(path: Path, fields: dict[str, type]) -> dict[str, dict[str, Any]]:
    """The rows by their `_id`."""
    found: dict[str, dict[str, Any]] = {}
    lines: dict[str, int] = {}
    for number, row in _read(path, fields):
        name = row["_id"]
        if name in found:
            raise MghError(f"{path}, line {number}: _id {name!r} is that of line {lines[name]} too")
        found[name], lines[name] = row, number
    return found


def _read(path: Path, fields: dict[str, type]) -> list[tuple[int, dict[str, Any]]]:
    """Line and named fields of every row; other keys are left behind."""
    rows = []
    for row in read_lines(path, FirstRefusal(), lambda _: None):
        values = {}
        for name, kind in fields.items():
            problem = _problem(row.values.get(name), kind)
            if problem:
                raise MghError(f"{path}, line {row.line}: field {name!r} {problem}")
            values[name] = kind(row.values[name])
        rows.append((row.line, values))
    if not rows:
        raise MghError(f"{path} holds no rows")
    return rows


def _problem(value: Any, kind: type) -> str | None:
    """What is wrong with a value that should be of this kind: text, a number, or a whole number."""
    expected: Any = (int, float) if kind is float else kind
    if isinstance(value, bool) or not isinstance(value, expected):
        return "is missing or of the wrong type"
    if isinstance(value, str):
        return "has a lone surrogate, half of a character, in it" if has_lone_surrogate(value) else None
    if kind is float and not abs(value) <= sys.float_info.max:
        return "is not a finite number"
    if kind is int and abs(value) > LARGEST_INT:
        return "is too large a number"
    return None
