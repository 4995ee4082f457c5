"""Before against after: the rows of the table, and the headline about the hardest held-out negatives."""

import math
from dataclasses import dataclass

from mgh_ds.report.data import Evaluation, Level, Run, Score

DIFFICULTY = {"1": "easy", "2": "medium", "3": "medium", "4": "hard"}
METRICS = {
    "cosine_spearman": "Spearman, cosine",
    "map": "MAP",
    "mrr": "MRR",
    "ndcg": "nDCG",
    "v_measure": "V-measure",
}


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


def level_name(level: str) -> str:
    """A level as the page names it: "level 4 · hard"; "ungraded" for negatives without a grade."""
    if level in DIFFICULTY:
        return f"level {level} · {DIFFICULTY[level]}"
    return "ungraded" if level == "null" else f"level {level}"


def metric_name(metric: str) -> str:
    """An MTEB metric as papers write it: "nDCG@10" for ndcg_at_10; others with their blanks back."""
    name, at, cutoff = metric.partition("_at_")
    return METRICS.get(name, name.replace("_", " ")) + (f"@{cutoff}" if at else "")


def headline(run: Run) -> Headline | None:
    """The change on the hardest level that was evaluated, or None when nothing has been evaluated yet."""
    levels = [level for level in _either(run, "levels") if level in DIFFICULTY]
    if not levels:
        return None
    hardest = max(levels)
    before, after = _level(run.before, hardest), _level(run.after, hardest)
    return Headline(
        level=hardest,
        count=max(level.count for level in (before, after) if level),
        points=_accuracy(before, after),
        before_interval=wilson_interval(before.accuracy, before.count) if before else None,
        after_interval=wilson_interval(after.accuracy, after.count) if after else None,
    )


def task_rows(run: Run) -> list[Row]:
    """The held-out tasks in the order the evaluation wrote them."""
    return [
        _task_row(name, _task(run.before, name), _task(run.after, name)) for name in _either(run, "tasks")
    ]


def level_rows(run: Run) -> list[Row]:
    """Accuracy of "positive above negative" by level, easiest first."""
    names = sorted(_either(run, "levels"))
    return [_level_row(name, _level(run.before, name), _level(run.after, name)) for name in names]


def wilson_interval(share: float, count: int) -> tuple[float, float] | None:
    """The 95 % score interval of a binomial share, in points (Wilson 1927); None without observations."""
    if count == 0 or math.isnan(share):
        return None
    z = 1.96
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 100 / (1 + z * z / count)
    return max(0.0, (centre - half) * scale), min(100.0, (centre + half) * scale)


def _task_row(name: str, before: Score | None, after: Score | None) -> Row:
    metric = next(score.metric for score in (before, after) if score)
    points = Pair(_points(before.score if before else None), _points(after.score if after else None))
    return Row(name, metric_name(metric), points)


def _level_row(name: str, before: Level | None, after: Level | None) -> Row:
    count = max(level.count for level in (before, after) if level)
    detail = f"margin {_margin(before)} → {_margin(after)}, n = {count}"
    return Row(level_name(name), detail, _accuracy(before, after))


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
