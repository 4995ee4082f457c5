"""A benchmark in the layout of BEIR: `corpus.jsonl`, `queries.jsonl` and `qrels/SPLIT.tsv`, or other files of
these names that `records.inputs` reads.

Of every query each document with a score above 0 is the positive of one record, and all others that are
judged are its negatives, ungraded; what is not judged is neither. A document is its title, a space, and its
text. A query's `metadata` may have its instruction, as `mgh-ds data export` writes it; of such queries the
scores -4 to -1 are the levels 1 to 4. The split is the one asked for, else the only one, else `train`.

A judgement of a query or document that is not there is refused, and so are all of a query without a positive.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from mgh_ds.common.errors import MghError
from mgh_ds.records.convert.groups import Pair, PairGroups, settle
from mgh_ds.records.convert.scratch import ScratchDatabase
from mgh_ds.records.convert.settings import ForeignRow, Settings, checked_text, make_record, parse_as
from mgh_ds.records.inputs import Inputs, input_files, stem
from mgh_ds.records.levels import HARDEST, LEVELS
from mgh_ds.records.rows import ErrorReport, Row, RowRefused
from mgh_ds.records.schema import Id, Record, Text
from mgh_ds.records.sources import chosen_split

CORPUS, QUERIES, QRELS = "corpus", "queries", "qrels"

TextId = Annotated[Id, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


class Document(ForeignRow):
    id: TextId = Field(alias="_id")
    text: str
    title: str | None = None
    metadata: Any = None


class Query(ForeignRow):
    id: TextId = Field(alias="_id")
    text: Text
    metadata: Any = None


class Judgement(ForeignRow):
    query: TextId = Field(alias="query-id")
    document: TextId = Field(alias="corpus-id")
    score: int


def reads(column: str) -> bool:
    return any(model.reads(column) for model in (Document, Query, Judgement))


def listing(folder: Path, split: str | None) -> Inputs:
    """The corpus, the queries, and the judgements of the split, in this order. Raises MghError if one of them
    is missing, or there twice."""
    if not folder.is_dir():
        raise MghError(f"{folder} is a file, and format 'beir' a folder of corpus, queries and qrels")
    found = input_files(folder)
    texts = _by_stem(folder, found.files)
    for name in (CORPUS, QUERIES):
        if name not in texts:
            raise MghError(f"{folder} has no {name}.jsonl, as a folder of format 'beir' has")
    if not (folder / QRELS).is_dir():
        raise MghError(f"{folder} has no folder {QRELS}, as a folder of format 'beir' has")
    judgements = input_files(folder / QRELS)
    judged = _by_stem(folder / QRELS, judgements.files)
    chosen = chosen_split(folder, [*judged], split)
    others = {file.name: "is no part of it" for name, file in texts.items() if name not in (CORPUS, QUERIES)}
    others |= {f"{QRELS}/{file.name}": "is another split" for name, file in judged.items() if name != chosen}
    others |= {f"{QRELS}/{name}": reason for name, reason in judgements.not_read.items()}
    left = {name: reason for name, reason in found.not_read.items() if name != QRELS}
    return Inputs([texts[CORPUS], texts[QUERIES], judged[chosen]], left | others)


def _by_stem(folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    """The files by the names that say what they are. Raises MghError where two say the same."""
    found: dict[str, Path] = {}
    for file in files:
        other = found.setdefault(stem(file), file)
        if other != file:
            raise MghError(f"{folder} has both {other.name} and {file.name}: leave one of them there")
    return found


def records(rows: Iterable[Row], settings: Settings, report: ErrorReport) -> Iterator[Record]:
    def parse(row: Row) -> Pair:
        given = parse_as(Judgement, row, report)
        for kind, id, field in ((QUERIES, given.query, "query-id"), (CORPUS, given.document, "corpus-id")):
            if not texts.has(kind, id):
                raise RowRefused(field, "unknown_id", f"There is no '{id}' in {kind}")
        return Pair(row, given.query, given.document, given.score)

    with _Texts() as texts, PairGroups() as judgements:
        judgements.read(_judgements(rows, texts, report), parse, report)
        for group in judgements:
            yield from settle(group, partial(_make_records, group, texts, settings), report)


def _judgements(rows: Iterable[Row], texts: "_Texts", report: ErrorReport) -> Iterator[Row]:
    """The rows that judge, once the texts before them are kept."""
    for row in rows:
        kind = stem(Path(row.file))
        if kind not in (CORPUS, QUERIES):
            yield row
            continue
        try:
            if kind == CORPUS:
                document = parse_as(Document, row, report)
                text = checked_text(f"{document.title or ''} {document.text}", "text")
                texts.add(CORPUS, document.id, text)
            else:
                query = parse_as(Query, row, report)
                metadata = query.metadata if isinstance(query.metadata, dict) else {}
                own = metadata.get("instruction")
                own = checked_text(own, "metadata.instruction") if own is not None else None
                texts.add(QUERIES, query.id, query.text, own)
            report.accepted += 1
        except ValidationError as error:
            report.refuse(row, RowRefused.because(error))
        except RowRefused as refused:
            report.refuse(row, refused)


def _make_records(group: list[Pair], texts: "_Texts", settings: Settings) -> list[Record]:
    query, instruction = texts.get(QUERIES, group[0].first)
    judged = [(pair.row, texts.get(CORPUS, pair.second)[0], int(pair.verdict)) for pair in group]
    positives = [(row, text) for row, text, score in judged if score > 0]
    if not positives:
        raise RowRefused("score", "no_positive", "No document of this query scores above 0")
    folder = Path(group[0].row.file).resolve().parent.parent
    return [
        make_record(
            row,
            replace(settings, dataset=settings.dataset or folder.name),
            query=query,
            positive=positive,
            negatives=[(text, _level(score, instruction)) for _, text, score in judged if score <= 0],
            subtype="short-long",
            instruction=instruction,
        )
        for row, positive in positives
    ]


def _level(score: int, instruction: str | None) -> int | None:
    level = score + HARDEST + 1
    return level if instruction and level in LEVELS else None


class _Texts(ScratchDatabase):
    """Queries and documents by their ids; queries with the instruction that they bring."""

    def __init__(self) -> None:
        super().__init__(
            "CREATE TABLE texts (kind TEXT, id TEXT, text TEXT, instruction TEXT, PRIMARY KEY (kind, id)) "
            "WITHOUT ROWID;"
        )

    def add(self, kind: str, id: str, text: str, instruction: str | None = None) -> None:
        """Raises RowRefused for an id that is there already."""
        done = self._database.execute(
            "INSERT OR IGNORE INTO texts VALUES (?, ?, ?, ?)", [kind, id, text, instruction]
        )
        if not done.rowcount:
            raise RowRefused("_id", "duplicate_id", f"Id '{id}' occurs earlier in {kind}")

    def has(self, kind: str, id: str) -> bool:
        asked = "SELECT 1 FROM texts WHERE kind = ? AND id = ?"
        return self._database.execute(asked, [kind, id]).fetchone() is not None

    def get(self, kind: str, id: str) -> tuple[str, str | None]:
        """The text and the instruction of an id that is there."""
        asked = "SELECT text, instruction FROM texts WHERE kind = ? AND id = ?"
        found: tuple[str, str | None] = self._database.execute(asked, [kind, id]).fetchone()
        return found
