"""Before against after: the rows of the table, and the headline about the hardest held-out negatives."""

import math
from dataclasses import dataclass

from mgh_ds.common.intervals import wilson
from mgh_ds.common.score_tables import metric_name
from mgh_ds.report.data import Evaluation, Level, Run, Score
from mgh_ds.report.levels import easiest_first, hardest, level_title


@dataclass(frozen=True)
class Pair:
    """One quantity in points (percent), before and after training; None where it is not there yet."""

    before: float | None
    after: float | None

    @property
    def change(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class Row:
    """A line of the before/after table."""

    name: str
    detail: str
    points: Pair


@dataclass(frozen=True)
class Headline:
    """Accuracy on the hardest held-out level; the intervals are 95 % Wilson intervals, in points."""

    level: str
    count: int
    points: Pair
    before_interval: tuple[float, float] | None
    after_interval: tuple[float, float] | None


def headline(run: Run) -> Headline | None:
    """The change on the hardest level that was evaluated, or None when nothing has been evaluated yet."""
    level = hardest(_either(run, "levels"))
    if level is None:
        return None
    before, after = _level(run.before, level), _level(run.after, level)
    return Headline(
        level=level,
        count=max(found.count for found in (before, after) if found),
        points=_accuracy(before, after),
        before_interval=interval(before) if before else None,
        after_interval=interval(after) if after else None,
    )


def task_rows(run: Run) -> list[Row]:
    """The held-out tasks in the order the evaluation wrote them."""
    return [
        _task_row(name, _task(run.before, name), _task(run.after, name)) for name in _either(run, "tasks")
    ]


def level_rows(run: Run) -> list[Row]:
    """Accuracy of "positive above negative" by level, easiest first."""
    levels = easiest_first(_either(run, "levels"))
    return [
        _level_row(level_title(level, levels), _level(run.before, level), _level(run.after, level))
        for level in levels
    ]


def interval(level: Level) -> tuple[float, float] | None:
    """The 95 % Wilson interval of a level's accuracy, in points; None without observations."""
    if level.count == 0 or math.isnan(level.accuracy):
        return None
    low, high = wilson(level.accuracy, level.count)
    return 100 * low, 100 * high


def _task_row(name: str, before: Score | None, after: Score | None) -> Row:
    metric = next(score.metric for score in (before, after) if score)
    points = Pair(_points(before.score if before else None), _points(after.score if after else None))
    return Row(name, metric_name(metric), points)


def _level_row(name: str, before: Level | None, after: Level | None) -> Row:
    count = max(found.count for found in (before, after) if found)
    detail = f"margin {_margin(before)} → {_margin(after)}, n = {count}"
    return Row(name, detail, _accuracy(before, after))


def _accuracy(before: Level | None, after: Level | None) -> Pair:
    return Pair(_points(before.accuracy if before else None), _points(after.accuracy if after else None))


def _margin(level: Level | None) -> str:
    return "…" if level is None or math.isnan(level.margin) else f"{level.margin:+.3f}".replace("-", "−")


def _either(run: Run, part: str) -> list[str]:
    """The names that either evaluation holds in `part`, in their first order."""
    evaluations = [evaluation for evaluation in (run.before, run.after) if evaluation]
    return list(dict.fromkeys(name for evaluation in evaluations for name in getattr(evaluation, part)))


def _level(evaluation: Evaluation | None, name: str) -> Level | None:
    return evaluation.levels.get(name) if evaluation else None


def _task(evaluation: Evaluation | None, name: str) -> Score | None:
    return evaluation.tasks.get(name) if evaluation else None


def _points(share: float | None) -> float | None:
    return None if share is None or math.isnan(share) else 100 * share
