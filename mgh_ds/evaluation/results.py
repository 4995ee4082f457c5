"""What an evaluation leaves behind: scores by task and by negative level, as one JSON file.

The layout is that of a run folder's `evaluation/before.json` and `after.json`, which the report reads, so
keys are only ever added. This module needs no mteb.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.fingerprint import Fingerprint
from mgh_ds.evaluation.prompts import Prompts


class TaskScore(TypedDict):
    """A task's main score: `metric` is mteb's name for it, `score` lies in 0..1 (correlations in −1..1)."""

    metric: str
    score: float
    subsets: NotRequired[list[str]]  # mteb's language subsets behind the score, such as ["en-en"]
    prompts: NotRequired[Prompts]  # what texts were read under
    data: NotRequired[dict[str, Any]]  # which data were scored


class LevelScore(TypedDict):
    """Negatives of one level: share scored strictly below the positive, mean cosine margin, their number."""

    accuracy: float
    margin: float
    count: int


class Found(TypedDict):
    """A document at its rank among all documents, from 1 on. `level` is that of a negative, if it has one."""

    rank: int
    cosine: float
    text: str
    kind: Literal["positive", "negative", "other"]  # of the query's records; other: of other queries' alone
    level: int | None


class Query(TypedDict):
    """A query, the instruction that it was read under, and what it finds, best first: a few documents,
    and its best positives wherever they are."""

    query: str
    instruction: str | None
    found: list[Found]


class Retrieved(TypedDict):
    """What queries find among so many documents."""

    documents: int
    queries: list[Query]


@dataclass(frozen=True)
class EvaluationResult:
    """One encoder's scores; `settings` holds what else decides them, `details` mteb's full scores by task,
    `retrieved` what a few held-out queries find.

    `fingerprint` tells the scores from those of other weights, settings, data, prompts and versions under the
    same names; results of before there was one have none.
    """

    label: str
    model: str
    pooling: str
    tasks: dict[str, TaskScore]
    levels: dict[str, LevelScore] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    fingerprint: Fingerprint = field(default_factory=dict)
    retrieved: Retrieved | None = None

    def write(self, path: Path) -> None:
        """Writes the result as JSON in one step."""
        files.write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> "EvaluationResult":
        """Reads what `write` wrote. Raises MghError for a missing or broken file, or one of another kind."""
        content = files.read_json(path)
        try:
            result = cls(**content)
        except TypeError as error:
            raise MghError(f"{path} is not an evaluation result: {error}") from None
        if result.fingerprint and not _is_fingerprint(result.fingerprint):
            raise MghError(f"{path} is not an evaluation result: its fingerprint names no settings")
        return result


def _is_fingerprint(found: object) -> bool:
    return isinstance(found, dict) and isinstance(found.get("settings"), dict)


def joined(results: dict[Path, EvaluationResult]) -> EvaluationResult:
    """One result of several, each known by its file. Raises MghError where they are not of one encoder under
    one set of settings."""
    (path, first), *others = results.items()
    for name in ("label", "model", "pooling", "settings"):
        for other, result in others:
            if getattr(result, name) != getattr(first, name):
                raise MghError(
                    f"{path} and {other} do not belong together: {name} is {getattr(first, name)} and "
                    f"{getattr(result, name)}; remove the one that is out of date"
                )
    return dataclasses.replace(
        first,
        tasks={name: score for result in results.values() for name, score in result.tasks.items()},
        details={name: detail for result in results.values() for name, detail in result.details.items()},
        # what they have in common; each file has its own
        fingerprint={
            part: first.fingerprint[part]
            for part in ("weights", "settings", "versions")
            if part in first.fingerprint
        },
    )
