"""Evaluations while a run trains: when one is due, what is kept of it, which was best, and when to end.

All of this is a function of the lines of kind "evaluation" in the run's log, which rewinds with the
checkpoint that a run goes on from. So a run that was killed anywhere goes on as if it had not been.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from mgh_ds.common import files
from mgh_ds.common.differences import differences
from mgh_ds.common.errors import MghError
from mgh_ds.common.problems import nearest
from mgh_ds.distributed.group import on_main
from mgh_ds.distributed.watchdog import is_lost_connection
from mgh_ds.model.embedder import EmbeddingModel
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store
from mgh_ds.training.config import RunConfig
from mgh_ds.training.progress import times_due
from mgh_ds.training.run_folder import RETRIEVED_WEIGHTS, TOKEN_WEIGHTS, RunFolder
from mgh_ds.training.shared_encoder import SharedEncoder, on_all_ranks
from mgh_ds.training.token_weights import retrieved_weights, text_weights

MEAN = "mean"
LEVEL = "levels."  # and the level: its accuracy
RETRIEVAL = ("ndcg_at_", "map_at_", "mrr_at_")  # mteb's names of metrics begin so

Line = dict[str, Any]
"""A line of kind "evaluation": step, label, seconds, and `interpolate` where it is below 1; then scores,
metrics and data by task, levels, and `value` of `metric` where the recipe names one; or the problem that it
failed with."""


class Scored(Protocol):
    """What an evaluation finds."""

    @property
    def tasks(self) -> Mapping[str, Any]:
        """By task: `metric`, `score`, and `data` that tells which data were scored."""

    @property
    def levels(self) -> Mapping[str, Any]:
        """By level of negatives: accuracy, margin, count."""


class Scorer(Protocol):
    """What a run is scored on. Rank 0 alone calls it."""

    def prepare(self, records: Sequence[Record]) -> Mapping[str, Any]:
        """Reads all that scoring the held-out `records` and the tasks needs; by task, what tells its data
        from others. Raises MghError for what is unknown or missing."""

    def score(self, encoder: SharedEncoder, label: str, output: Path) -> Scored:
        """Scores `encoder` and writes what comes out to `output`."""


class Evaluations:
    """The evaluations of one run. Every rank has the log's lines, so all of them decide alike.

    Args:
        config: the run's recipe.
        folder: its folder.
        held_out: the records to score, if any.
        scorer: scores them, and the recipe's tasks; None: nothing is scored.

    Raises MghError, before a model is loaded, when a task or the metric is unknown or data are missing.
    """

    def __init__(
        self, config: RunConfig, folder: RunFolder, held_out: Store | None, scorer: Scorer | None
    ) -> None:
        self.config, self.folder = config.evaluation, folder
        self.last_step = config.training.steps
        self.lines: list[Line] = []
        self._name = config.model.name_or_path
        self._scorer = scorer if config.is_scored else None
        self._records: list[Record] = []  # on rank 0 alone
        self._data: Mapping[str, Any] = {}  # by task; on rank 0 alone
        self._held_out = held_out
        on_main(self._prepare)

    def check(self, step: int) -> None:
        """Raises MghError if an MTEB task's data are not those that the log's evaluations up to `step`
        scored, or the weights were at another share of what was learnt: neither which was best nor what
        training changed could be told from such figures. Held-out records are the checkpoint's to check."""
        tasks = {name: data for name, data in self._data.items() if name in self.config.tasks}

        def look() -> None:
            lines = evaluation_lines(self.folder)
            check_data(lines, step, tasks)
            check_weights(lines, step, self.config.interpolate)

        on_main(look)

    def resume(self) -> None:
        """Takes up what the log says, once it is rewound."""
        self.lines = on_main(lambda: evaluation_lines(self.folder))

    def due(self, step: int) -> bool:
        """Whether the run is to be evaluated after `step` steps, before it goes on."""
        last = step if self.exhausted else self.last_step  # where training ends, whatever `every` says
        return self._scorer is not None and is_due(step, self.lines, self.config.every, last)

    def left(self, step: int) -> int:
        """How many are due after `step` steps, if patience does not end training early."""
        if self._scorer is None:
            return 0
        return times_due(step, self.last_step, self.config.every or self.last_step)

    @property
    def mean_seconds(self) -> float | None:
        """Of the evaluations so far; None before the first."""
        return statistics.fmean(line["seconds"] for line in self.lines) if self.lines else None

    @property
    def best(self) -> int | None:
        """The step whose evaluation was best; None without a metric, or before the first."""
        return best_step(self.lines, self.config.metric)

    @property
    def exhausted(self) -> bool:
        """Whether training is to end here: so many evaluations in a row were no better."""
        return is_exhausted(self.lines, self.config.metric, self.config.patience)

    @property
    def verdict(self) -> str:
        """Why training is to end here."""
        return (
            f"evaluation.metric {self.config.metric} was best after step {self.best}, and no better in the "
            f"{self.config.patience} evaluations since"
        )

    @property
    def failed(self) -> list[Line]:
        """The evaluations that came to nothing."""
        return [line for line in self.lines if "problem" in line]

    def evaluate(
        self,
        step: int,
        model: EmbeddingModel,
        tokenizer: Tokenizer,
        origin: Mapping[str, Any],
        log: Callable[[Line], None],
    ) -> None:
        """Scores the model after `step` steps on all ranks and has rank 0 `log` what came out; the result
        keeps the model's `origin`. A failure is logged and printed, and that is all, unless a rank was
        lost."""
        begin = time.perf_counter()
        label = label_of(step, self.last_step)
        encoder = Encoder(model, tokenizer, self._name, origin)
        line: Line = {"kind": "evaluation", "step": step, "label": label}
        if self.config.interpolate < 1:
            line["interpolate"] = self.config.interpolate
        try:
            scored = on_all_ranks(encoder, lambda shared: self._score(shared, encoder, label))
            line |= self._figures(scored) if scored is not None else {}
        except Exception as error:
            if is_lost_connection(error):
                raise
            words = str(error) if isinstance(error, MghError) else f"{type(error).__name__}: {error}"
            line["problem"] = words
            tqdm.write(f"warning: the evaluation after step {step} failed, and the run goes on: {words}")
        line["seconds"] = time.perf_counter() - begin

        def logged() -> Line:
            log(line)
            for words in fallen(self.lines, line):
                tqdm.write(f"warning: {words}")
            return line

        self.lines.append(on_main(logged))  # what rank 0 found, on every rank

    def conclude(self, model: EmbeddingModel, tokenizer: Tokenizer) -> None:
        """Where training ended early, makes the last evaluation that of after training."""

        def copy() -> None:
            last = self.folder.evaluation(self.lines[-1]["label"])
            if last.exists():
                files.write_json(self.folder.evaluation("after"), files.read_json(last) | {"label": "after"})
                self._keep_retrieved_weights(Encoder(model, tokenizer), "after")
            self._keep_token_weights(Encoder(model, tokenizer), "after")

        on_main(copy)

    def _prepare(self) -> None:
        if self._scorer is None:
            return
        self._records = list(self._held_out or ())
        tasks = self._data = self._scorer.prepare(self._records)
        levels = sorted({each.level for record in self._records for each in record.negatives if each.level})
        metric, known = self.config.metric, [*tasks, MEAN, *(f"{LEVEL}{level}" for level in levels)]
        if metric is not None and metric not in known:
            raise MghError(
                f"evaluation.metric is {metric!r}, which is none of this run's: {', '.join(known)}"
                f"{nearest(metric, known)}"
            )

    def _score(self, shared: SharedEncoder, encoder: Encoder, label: str) -> Scored:
        assert self._scorer is not None
        if label in ("before", "after"):
            self._keep_token_weights(encoder, label)
        output = self.folder.evaluation(label)
        output.unlink(missing_ok=True)  # of an earlier attempt, which a failure must not leave standing
        scored = self._scorer.score(shared, label, output)
        if label in ("before", "after"):
            self._keep_retrieved_weights(encoder, label)
        return scored

    def _keep_token_weights(self, encoder: Encoder, label: str) -> None:
        """Keeps the token weights of a few held-out texts for the report."""
        texts = [record.positive for record in self._records]
        if not texts:
            return
        chosen = texts[:: -(-len(texts) // self.config.heat_map_texts)]
        weighted = text_weights(encoder.model, encoder.tokenizer, chosen, label)
        self.folder.keep_weights(TOKEN_WEIGHTS, label, weighted)

    def _keep_retrieved_weights(self, encoder: Encoder, label: str) -> None:
        """Keeps the token weights of the texts that the result shows of retrieval, for the report. What goes
        wrong costs the report these colours, and not the scores, which are written by then."""
        try:
            found = files.read_json(self.folder.evaluation(label)).get("retrieved")
            if found is not None:
                weighted = retrieved_weights(encoder.model, encoder.tokenizer, found, self._records, label)
                self.folder.keep_weights(RETRIEVED_WEIGHTS, label, weighted)
        except Exception as error:
            print(f"warning: the report will show no token weights of texts found {label} training: {error}")

    def _figures(self, scored: Scored) -> Line:
        figures: Line = {
            "scores": {name: task["score"] for name, task in scored.tasks.items()},
            "metrics": {name: task["metric"] for name, task in scored.tasks.items()},
            "data": {name: task["data"] for name, task in scored.tasks.items()},
            "levels": {level: dict(found) for level, found in scored.levels.items()},
        }
        if self.config.metric is not None:
            figures |= {"metric": self.config.metric, "value": value_of(figures, self.config.metric)}
        return figures


def evaluation_lines(folder: RunFolder) -> list[Line]:
    """The evaluations that a run has logged, in the order of their steps."""
    return [line for line in folder.metrics.entries() if line["kind"] == "evaluation"]


def check_data(lines: Sequence[Line], step: int, data: Mapping[str, Any]) -> None:
    """Raises MghError if a line up to `step` has a score of a task on other data than `data` says of it. A
    line that does not say which data it scored fits any."""
    for line in lines:
        for task, found in line.get("data", {}).items() if line["step"] <= step else ():
            if task in data and (changed := differences(found, data[task])):
                raise MghError(
                    f"the evaluation after step {line['step']} scored {task} on other data; differing: "
                    f"{'; '.join(map(str, changed))}. Put evaluation.data_dir and evaluation.languages back, "
                    f"take {task} out of evaluation.tasks, or choose another --name"
                )


def check_weights(lines: Sequence[Line], step: int, interpolate: float) -> None:
    """Raises MghError if a line up to `step` scored weights at another share of what was learnt. Before
    training all shares are the same."""
    for line in lines:
        found = line.get("interpolate", 1.0)
        if 0 < line["step"] <= step and found != interpolate:
            raise MghError(
                f"the evaluation after step {line['step']} scored the weights of evaluation.interpolate "
                f"{found:g}, and now it is {interpolate:g}: put it back, choose another --name, or leave the "
                "run and have mgh-ds export --interpolate write other weights"
            )


def label_of(step: int, last_step: int) -> str:
    """What the evaluation after `step` steps and its file are called."""
    return "before" if step == 0 else "after" if step == last_step else f"step-{step:06d}"


def is_due(step: int, lines: Sequence[Line], every: int | None, last_step: int) -> bool:
    """Whether an evaluation after `step` steps is wanted and not logged yet."""
    wanted = step in (0, last_step) or (every is not None and step % every == 0)
    return wanted and all(line["step"] != step for line in lines)


def value_of(line: Line, metric: str) -> float | None:
    """The metric's value in an evaluation; None where that failed, or was of other tasks."""
    scores = line.get("scores", {})
    if metric == MEAN:
        return sum(scores.values()) / len(scores) if scores else None
    if metric.startswith(LEVEL):
        level = line.get("levels", {}).get(metric.removeprefix(LEVEL))
        return level["accuracy"] if level else None
    return scores.get(metric)


def fallen(earlier: Sequence[Line], line: Line) -> list[str]:
    """What to say of retrieval tasks that score below what the run began with: gains elsewhere may have been
    bought with it. `earlier` are the lines before `line`."""
    before = earlier[0].get("scores", {}) if earlier and earlier[0]["step"] == 0 else {}
    step = line["step"]
    return [
        f"{task} is {100 * score:.2f} after step {step}, below its {100 * before[task]:.2f} before training"
        for task, score in line.get("scores", {}).items()
        if line["metrics"][task].startswith(RETRIEVAL) and score < before.get(task, score)
    ]


def best_step(lines: Sequence[Line], metric: str | None) -> int | None:
    """The step after which the metric was greatest, the first of several; what was there before training does
    not count."""
    values = _values(lines, metric)
    return max(values, key=lambda step: (values[step], -step)) if values else None


def is_exhausted(lines: Sequence[Line], metric: str | None, patience: int | None) -> bool:
    """Whether the last `patience` evaluations were no better than one before; failed ones do not count."""
    if patience is None:
        return False
    values, best = _values(lines, metric), best_step(lines, metric)
    return best is not None and sum(step > best for step in values) >= patience


def _values(lines: Sequence[Line], metric: str | None) -> dict[int, float]:
    """The metric by step, in the course of training."""
    found = {line["step"]: value_of(line, metric) for line in lines if line["step"] > 0} if metric else {}
    return {step: value for step, value in found.items() if value is not None}
