"""What one training example is: a query, its positive, and negatives graded by how close they come to it.

The models are strict: nothing is coerced, unknown keys are refused, and the only change made to a text is
that white space at its ends goes. So a record that validates once is the same record wherever it is read.
"""

from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mgh_ds.records.levels import LEVELS
from mgh_ds.records.subtypes import SUBTYPES, Kind

SCHEMA_VERSION = 2  # 1 knew no scores; otherwise it is the same
MAX_TEXT_CHARS = 100_000
MAX_NEGATIVES = 64
MAX_SOURCE_KEYS = 64
MAX_ID_CHARS = 200
MAX_SCORE = 1e9  # its square is far from what float32 cannot hold

# Error types whose message needs no "found …" beside it.
SELF_EXPLAINING = frozenset(
    {
        "missing",
        "nul_character",
        "kind_mismatch",
        "negative_is_positive",
        "missing_dataset",
        "extra_forbidden",
    }
)


def _without_nul(text: str) -> str:
    # Tokenizers, C libraries and terminals disagree about NUL, so no text of ours has one.
    if "\x00" in text:
        raise PydanticCustomError("nul_character", "Text should not contain a NUL character")
    return text


def _known_subtype(value: Any) -> Any:
    if isinstance(value, str) and value in SUBTYPES:
        return value
    *others, last = (f"'{name}'" for name in SUBTYPES)
    raise PydanticCustomError("literal_error", f"Input should be {', '.join(others)} or {last}")


def _text(max_chars: int) -> StringConstraints:
    return StringConstraints(strip_whitespace=True, min_length=1, max_length=max_chars)


Text = Annotated[str, _text(MAX_TEXT_CHARS), AfterValidator(_without_nul)]
Id = Annotated[str, _text(MAX_ID_CHARS), AfterValidator(_without_nul)]
Note = Annotated[str, _text(2_000), AfterValidator(_without_nul)]
Language = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,4}$")]
Subtype = Annotated[  # a key of SUBTYPES
    str, BeforeValidator(_known_subtype), WithJsonSchema({"type": "string", "enum": list(SUBTYPES)})
]
Level = Annotated[int, Field(ge=1, le=LEVELS[-1])]
Score = Annotated[float, Field(ge=-MAX_SCORE, le=MAX_SCORE, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Task(_Strict):
    """What is asked of the embedding: the kind of relation, its shape, and the instruction in words.

    `records.subtypes` says what each subtype is, and which kind it belongs to.
    """

    kind: Kind
    subtype: Subtype
    instruction: Text

    @model_validator(mode="after")
    def _kind_fits_subtype(self) -> Self:
        right = SUBTYPES[self.subtype].kind
        if self.kind != right:
            raise PydanticCustomError(
                "kind_mismatch",
                "Subtype '{subtype}' should have kind '{right}', not '{found}'",
                {"subtype": self.subtype, "right": right, "found": self.kind},
            )
        return self


def _without_score() -> Any:
    # Written only where there is one, so that records without scores are the bytes that they always were.
    return Field(default=None, exclude_if=lambda score: score is None)


class Negative(_Strict):
    """A text that is not the answer. `level` is one of `records.levels`; None says it was never graded.

    `score` says how well it answers the query, on the scale of the positive's.
    """

    text: Text
    level: Level | None
    score: Score | None = _without_score()


class Record(_Strict):
    """One training example; as JSON it is one line of MGH JSONL.

    `negatives` may be empty: such a record trains against the other texts of its batch alone.
    `score` says how well the positive answers the query: a teacher's score, on whatever scale, or the gold
    similarity of a pair of sentences. `source` says where the row came from; its key `dataset` is required,
    all others are free.
    """

    id: Id
    task: Task
    language: Language
    query: Text
    positive: Text
    score: Score | None = _without_score()
    negatives: Annotated[list[Negative], Field(max_length=MAX_NEGATIVES)]
    source: Annotated[dict[Note, Note], Field(max_length=MAX_SOURCE_KEYS)]

    @field_validator("negatives")
    @classmethod
    def _differ_from_the_positive(cls, negatives: list[Negative], info: ValidationInfo) -> list[Negative]:
        for index, negative in enumerate(negatives):
            if negative.text == info.data.get("positive"):
                raise PydanticCustomError(
                    "negative_is_positive",
                    "Negative {index} should differ from the positive",
                    {"index": index},
                )
        return negatives

    @field_validator("source")
    @classmethod
    def _names_its_dataset(cls, source: dict[str, str]) -> dict[str, str]:
        if "dataset" not in source:
            raise PydanticCustomError("missing_dataset", "Source should have the key 'dataset'")
        return source

    @property
    def scores(self) -> list[float | None]:
        """Of the positive, then of the negatives."""
        return [self.score, *(negative.score for negative in self.negatives)]
