"""A run folder as checked data: the files a run leaves behind, with whatever is not there yet as None."""

import json
import math
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from mgh_ds.common.errors import MghError
from mgh_ds.common.files import read_json
from mgh_ds.report.levels import easiest_first

Measured = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A float that a run may not have measured: null or absent in the file is NaN here."""

T = TypeVar("T")


class Level(BaseModel):
    """How one level's negatives fare: `accuracy` in 0..1, `margin` in cosine, over `count`."""

    accuracy: Measured
    margin: Measured = math.nan
    count: int = Field(ge=0)


class Step(BaseModel):
    """One optimiser step, a line of kind "step" in metrics.jsonl."""

    step: int
    stage: int
    stage_name: str
    loss: Measured
    lr: Measured = math.nan
    grad_norm: Measured = math.nan
    seconds: Measured = math.nan
    texts_per_s: Measured = math.nan
    tokens_per_s: Measured = math.nan
    padding_saved: Measured = math.nan  # share of a padded batch's places
    padding_spent: Measured = math.nan
    mfu: Measured = math.nan  # in 0..1, of all devices' peak
    memory_bytes: Measured = math.nan
    wait_share: Measured = math.nan
    levels: dict[str, Level] = {}
    statistics: dict[str, Measured] = {}  # of the loss, by its own names


class Checkpoint(BaseModel):
    """One checkpoint written, a line of kind "checkpoint" in metrics.jsonl."""

    step: int
    seconds: float
    bytes: int


class Score(BaseModel):
    """A held-out task's main score, in 0..1, and the metric it is measured by."""

    metric: str
    score: Measured


class Found(BaseModel):
    """A document at its rank, from 1 on: the query's positive, a negative of it, or another query's."""

    rank: int = Field(ge=1)
    cosine: Measured
    text: str
    kind: Literal["positive", "negative", "other"]
    level: int | None = None  # of a negative


class Query(BaseModel):
    """A query, what it was read under, and what it finds, best first."""

    query: str
    instruction: str | None = None
    found: list[Found]


class Retrieved(BaseModel):
    """What a few held-out queries find among so many documents."""

    documents: int
    queries: list[Query]


class Evaluation(BaseModel):
    """evaluation/before.json or evaluation/after.json."""

    label: str
    model: str = ""
    pooling: str = ""
    tasks: dict[str, Score] = {}
    levels: dict[str, Level] = {}
    retrieved: Retrieved | None = None


class Evaluated(BaseModel):
    """One evaluation in the course of training, a line of kind "evaluation" in metrics.jsonl."""

    step: int
    seconds: Measured = math.nan
    scores: dict[str, Measured] = {}  # by task: its main score, in 0..1
    levels: dict[str, Level] = {}
    metric: str | None = None  # by which the best is chosen
    value: Measured = math.nan
    problem: str | None = None  # why it failed


class WeightedText(BaseModel):
    """One text of token_weights.json or retrieved_weights.json: a pooling weight for each of its tokens,
    summing to 1."""

    label: Literal["before", "after"]
    text: str
    instruction: str | None = None
    tokens: list[str]
    weights: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]

    @model_validator(mode="after")
    def _one_weight_a_token(self) -> "WeightedText":
        if len(self.tokens) != len(self.weights):
            raise ValueError(f"{len(self.tokens)} tokens but {len(self.weights)} weights")
        return self


class Parameters(BaseModel):
    total: int
    trainable: int


class RunInfo(BaseModel):
    """run.json; a run that is still training has written only a part of it."""

    name: str | None = None
    model: str | None = None
    world_size: int | None = None
    device: str | None = None
    versions: dict[str, str] = {}
    started: datetime | None = None
    finished: datetime | None = None
    train_seconds: float | None = None
    steps: int | None = None
    global_batch: int | None = None
    parameters: Parameters | None = None
    texts_per_s: float | None = None
    tokens_per_s: float | None = None
    padding_saved: float | None = None
    padding_spent: float | None = None
    mfu: float | None = None
    metric: str | None = None  # by which the best evaluation was chosen
    best_step: int | None = None  # whose checkpoint is exported
    interpolate: float = 1.0  # share of what was learnt in the weights that are scored and exported
    memory_bytes: int | None = None  # at most
    wait_shares: dict[str, float] = {}  # by what training stood still for


@dataclass(frozen=True)
class StageSteps:
    """A stretch of consecutive steps that trained on the same levels."""

    index: int
    name: str
    steps: list[Step]

    @property
    def first(self) -> int:
        return self.steps[0].step

    @property
    def last(self) -> int:
        return self.steps[-1].step


@dataclass(frozen=True)
class Run:
    """Everything the page shows. `notes` says what was amiss in the files but did not stop the report."""

    folder: Path
    info: RunInfo
    steps: list[Step]
    checkpoints: list[Checkpoint]
    before: Evaluation | None
    after: Evaluation | None
    weighted_texts: list[WeightedText]
    config: str | None
    notes: list[str]
    evaluations: list[Evaluated] = field(default_factory=list)  # those that did not fail
    retrieved_weights: list[WeightedText] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.info.name or self.folder.resolve().name

    @cached_property
    def stages(self) -> list[StageSteps]:
        spans = groupby(self.steps, key=lambda step: (step.stage, step.stage_name))
        return [StageSteps(index, name, list(steps)) for (index, name), steps in spans]

    @cached_property
    def levels(self) -> list[str]:
        """The levels that training logged, easiest first."""
        return easiest_first(level for step in self.steps for level in step.levels)


def load_run(folder: Path) -> Run:
    """Reads a run folder.

    Only metrics.jsonl must exist; every other file is optional, so a run can be looked at while it trains.
    Raises MghError, naming the file and where possible the line and field, for a folder that is not a run's
    and for a file that breaks its format.
    """
    if not folder.is_dir():
        raise MghError(f"{folder} is not a folder: give the folder of a run, such as runs/demo")
    steps, checkpoints, evaluations, notes = read_metrics(folder / "metrics.jsonl")
    config = folder / "config.yaml"
    return Run(
        folder=folder,
        info=_optional(folder / "run.json", RunInfo) or RunInfo(),
        steps=steps,
        checkpoints=checkpoints,
        before=_optional(folder / "evaluation" / "before.json", Evaluation),
        after=_optional(folder / "evaluation" / "after.json", Evaluation),
        weighted_texts=_optional(folder / "token_weights.json", list[WeightedText]) or [],
        config=config.read_text(encoding="utf-8", errors="replace") if config.exists() else None,
        notes=notes,
        evaluations=evaluations,
        retrieved_weights=_optional(folder / "retrieved_weights.json", list[WeightedText]) or [],
    )


def read_metrics(path: Path) -> tuple[list[Step], list[Checkpoint], list[Evaluated], list[str]]:
    """Reads metrics.jsonl: the steps in order, checkpoints, evaluations, and notes on lines left out.

    A step logged twice counts once, as logged last: a resumed run repeats the steps after its checkpoint.
    The last line may be torn, since the run may be writing it just now or have been killed while it did.
    """
    if not path.exists():
        raise MghError(
            f"{path} does not exist: is {path.parent} the folder of a run that has begun to train?"
        )
    steps: dict[int, Step] = {}
    checkpoints: dict[int, Checkpoint] = {}
    evaluations: dict[int, Evaluated] = {}
    notes: list[str] = []
    unknown: set[str] = set()
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:  # broken JSON or broken UTF-8
            if number == len(lines):
                notes.append(
                    "The last line of metrics.jsonl was cut off while being written and is left out."
                )
                break
            raise MghError(f"{where} is not valid JSON: {error}") from None
        kind = row.get("kind") if isinstance(row, dict) else None
        if kind == "step":
            step = _check(where, Step, row)
            steps[step.step] = step
        elif kind == "checkpoint":
            checkpoint = _check(where, Checkpoint, row)
            checkpoints[checkpoint.step] = checkpoint
        elif kind == "evaluation":
            evaluated = _check(where, Evaluated, row)
            if evaluated.problem is None:
                evaluations[evaluated.step] = evaluated
            else:
                notes.append(f"The evaluation after step {evaluated.step} failed: {evaluated.problem}")
        elif kind == "skipped":
            notes.append(f"Step {row.get('step')} was skipped: {row.get('reason')}.")
        elif isinstance(kind, str):
            unknown.add(kind)
        else:
            raise MghError(f'{where} has no "kind": expected an object of kind "step" or "checkpoint"')
    notes += [f"Lines of kind “{kind}” in metrics.jsonl are not shown here." for kind in sorted(unknown)]
    return _in_order(steps), _in_order(checkpoints), _in_order(evaluations), notes


def _in_order(rows: dict[int, T]) -> list[T]:
    return [rows[step] for step in sorted(rows)]


def _optional(path: Path, kind: type[T]) -> T | None:
    """The checked content of a JSON file, or None where there is no such file yet."""
    return _check(str(path), kind, read_json(path)) if path.exists() else None


def _check(where: str, kind: type[T], value: Any) -> T:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the value"
        raise MghError(f"{where}: {field}: {first['msg']}") from None
