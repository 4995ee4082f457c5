"""What the converters share: the settings of a conversion, and the way from a foreign row to a record."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from mgh_ds.common.errors import MghError
from mgh_ds.records.inputs import stem
from mgh_ds.records.instructions import INSTRUCTIONS
from mgh_ds.records.rows import ErrorReport, Row, RowRefused
from mgh_ds.records.schema import MAX_NEGATIVES, Record, Score, Subtype, Text
from mgh_ds.records.subtypes import SUBTYPES

_TEXT: TypeAdapter[str] = TypeAdapter(Text, config=ConfigDict(strict=True))
_SCORE: TypeAdapter[float] = TypeAdapter(Score)
_SCORES: TypeAdapter[list[float]] = TypeAdapter(list[Score], config=ConfigDict(strict=True))


@dataclass(frozen=True)
class Settings:
    """What the user says about a data set whose rows do not say it themselves.

    dataset      its name, in ids and in `source`; None: the file's name without its endings
    instruction  for rows that bring none; None: the registry's for that data set (`records.instructions`)
    subtype      the shape of its texts; None: the format's own
    language     BCP 47
    columns      what the format's columns are called in the data (`convert.renaming`)
    like         a data set of the registry, whose word holds where it does not know this one
    otherwise    the instruction where neither row nor registry knows one; None: such rows are refused
    negatives    how many of those that a row lists are kept, the first ones; None: all. For formats that list
                 them (`records.formats`)

    Raises MghError for a subtype that does not exist, and for more negatives than a record holds.
    """

    dataset: str | None = None
    instruction: str | None = None
    subtype: Subtype | None = None
    language: str = "en"
    columns: Mapping[str, str] = field(default_factory=dict)
    like: str | None = None
    otherwise: str | None = None
    negatives: int | None = None

    def __post_init__(self) -> None:
        if self.subtype is not None and self.subtype not in SUBTYPES:
            raise MghError(f"Subtype '{self.subtype}' is unknown: there are {', '.join(SUBTYPES)}")
        if self.negatives is not None and not 0 <= self.negatives <= MAX_NEGATIVES:
            raise MghError(f"--negatives must be 0 to {MAX_NEGATIVES}, found {self.negatives}")


class ForeignRow(BaseModel):
    """A row of another format: strict about the keys it names; others are left alone."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    @classmethod
    def reads(cls, column: str) -> bool:
        """Whether the format uses a column of this name."""
        return column in cls.columns()

    @classmethod
    def columns(cls) -> set[str]:
        """The names of the columns, of which some cannot be names in Python."""
        return {field.alias or name for name, field in cls.model_fields.items()}


ForeignRowT = TypeVar("ForeignRowT", bound=ForeignRow)
T = TypeVar("T")


def parse_as(model: type[ForeignRowT], row: Row, report: ErrorReport) -> ForeignRowT:
    """The row as `model`; counts the keys that `model` does not name. A number may be written as text where
    the file knows texts alone. Raises pydantic's ValidationError."""
    parsed = model.model_validate(row.values, strict=row.typed)
    report.ignore(row.values.keys() - model.columns())
    return parsed


def checked_text(value: Any, field: str) -> str:
    """`value` if it is a text that a record may hold. Raises RowRefused naming `field`."""
    try:
        return _TEXT.validate_python(value)
    except ValidationError as error:
        raise RowRefused.because(error, within=field) from None


def checked_score(value: Any, field: str, *, typed: bool = True) -> float:
    """`value` if it is a score, or, where the file is not `typed`, a text that is one. Raises RowRefused
    naming `field`."""
    try:
        return _SCORE.validate_python(value, strict=typed)
    except ValidationError as error:
        raise RowRefused.because(error, within=field) from None


def checked_scores(values: Any, field: str, count: int, what: str) -> list[float]:
    """`values` if they are scores, one for each of `count` texts, which are `what`. Raises RowRefused naming
    `field`."""
    try:
        scores = _SCORES.validate_python(values)
    except ValidationError as error:
        raise RowRefused.because(error, within=field) from None
    if len(scores) != count:
        reason = f"There should be {count} scores, for {what} (found {len(scores)})"
        raise RowRefused(field, "wrong_length", reason)
    return scores


def first_negatives(listed: Sequence[T], settings: Settings, report: ErrorReport) -> Sequence[T]:
    """Of the negatives that a row lists as many as the settings keep; the row is counted where some are left
    out. Raises RowRefused if that is more than a record holds."""
    kept = listed[: settings.negatives]
    if len(kept) > MAX_NEGATIVES:
        most = f"A record holds at most {MAX_NEGATIVES} negatives (found {len(kept)})"
        raise RowRefused(
            "negatives",
            "too_long",
            f"{most}: mgh-ds data convert --negatives {MAX_NEGATIVES} keeps the first",
        )
    report.shortened += len(kept) < len(listed)
    return kept


def make_record(
    row: Row,
    settings: Settings,
    *,
    query: str,
    positive: str,
    negatives: Sequence[tuple[str, int | None]],
    scores: Sequence[float | None] = (),
    subtype: Subtype,
    instruction: str | None = None,
    fallback_instruction: str | None = None,
    id: str | None = None,
) -> Record:
    """One record from a foreign row, whose negatives are (text, level).

    `scores` are of the positive and of each negative; empty if there are none.
    `instruction` is the row's own and wins; then come the setting, the registry, the format's fallback, and
    what the settings have otherwise.
    For the subtype: the setting, then the format's, made symmetric where the registry calls the data set so.
    A row without an id gets one from its content, so converting again gives the same ids.
    Raises RowRefused if no instruction is known, pydantic's ValidationError if the record is not valid.
    """
    dataset = settings.dataset or stem(Path(row.file))
    known = INSTRUCTIONS.get(dataset) or INSTRUCTIONS.get(settings.like or "")
    fallback = known.text if known else fallback_instruction or settings.otherwise
    instruction = instruction or settings.instruction or fallback
    if instruction is None:
        reason = f"Row brings no instruction and none is known for '{dataset}': pass --instruction"
        raise RowRefused("instruction", "missing", reason)
    if settings.subtype is not None:
        subtype = settings.subtype
    elif known is not None and known.symmetric and SUBTYPES[subtype].kind == "asymmetric":
        subtype = "paraphrase"
    content = json.dumps([query, positive, negatives]).encode("ascii")
    score, *negative_scores = scores or [None] * (1 + len(negatives))
    return Record.model_validate(
        {
            "id": id or f"{dataset}-{hashlib.blake2b(content, digest_size=12).hexdigest()}",
            "task": {"kind": SUBTYPES[subtype].kind, "subtype": subtype, "instruction": instruction},
            "language": settings.language,
            "query": query,
            "positive": positive,
            "score": score,
            "negatives": [
                {"text": text, "level": level, "score": score}
                for (text, level), score in zip(negatives, negative_scores, strict=True)
            ],
            "source": {"dataset": dataset, "file": Path(row.file).name, "line": str(row.line)},
        }
    )
