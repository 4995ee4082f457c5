"""The evaluations' curves: main scores and accuracy by level over the steps, the best step marked."""

import math
from collections.abc import Callable

import numpy as np

from mgh_ds.common.charts.chart import (
    CHARACTER,
    Band,
    Chart,
    Frame,
    Line,
    Linear,
    level_css,
    linear_axis,
    rounded,
)
from mgh_ds.common.charts.scales import nice_ticks, number
from mgh_ds.report.data import Evaluated, Run
from mgh_ds.report.levels import easiest_first, level_name
from mgh_ds.report.plots import BELOW, HALF, LEFT, TOP, spread, step_name

FEWEST = 3  # of no more than before and after, the table tells everything
BEST_WIDTH = 6.0  # of the mark, in SVG units


def charts(run: Run) -> list[tuple[str, Chart]]:
    """By title: the tasks' main scores and the accuracy by level, in points, where there are curves."""
    if len(run.evaluations) < FEWEST:
        return []
    tasks = dict.fromkeys(name for each in run.evaluations for name in each.scores)
    levels = easiest_first(level for each in run.evaluations for level in each.levels)
    found = [
        (
            "Main scores",
            _chart(run, {name: _score(name) for name in tasks}, [str(n + 1) for n in range(len(tasks))]),
        ),
        (
            "Accuracy by level, %",
            _chart(run, {level_name(level): _accuracy(level) for level in levels}, levels),
        ),
    ]
    return [(title, chart) for title, chart in found if chart]


def best(run: Run) -> Evaluated | None:
    """The evaluation that a finished run says was best; of one that trains, the one after which the metric of
    the newest was greatest. What was before training does not count."""
    if run.info.best_step is not None:
        chosen = next((each for each in run.evaluations if each.step == run.info.best_step), None)
        if chosen is None or chosen.metric == run.info.metric:
            return chosen
        # Since then the recipe names another metric.
        return chosen.model_copy(update={"metric": run.info.metric, "value": math.nan})
    metric = run.evaluations[-1].metric if run.evaluations else None
    known = [
        each for each in run.evaluations if each.metric == metric and math.isfinite(each.value) and each.step
    ]
    return max(known, key=lambda each: (each.value, -each.step), default=None)


def _score(name: str) -> Callable[[Evaluated], float]:
    return lambda each: 100 * each.scores.get(name, math.nan)


def _accuracy(level: str) -> Callable[[Evaluated], float]:
    return lambda each: 100 * each.levels[level].accuracy if level in each.levels else math.nan


def _chart(run: Run, values: dict[str, Callable[[Evaluated], float]], colours: list[str]) -> Chart | None:
    """A line for each name, with a dot for each evaluation that has a value."""
    points = {
        name: [(each.step, value(each)) for each in run.evaluations if math.isfinite(value(each))]
        for name, value in values.items()
    }
    points = {name: found for name, found in points.items() if found}
    if not points:
        return None
    shown = [value for found in points.values() for _, value in found]
    first, last = (end(step for found in points.values() for step, _ in found) for end in (min, max))
    y_scale, y_values, y_names = linear_axis(min(shown), max(shown), about=5)
    width, height = HALF
    right = width - max(67.0, 10 + CHARACTER * max(map(len, points)))
    frame = Frame(
        width, height, LEFT, right, TOP, height - BELOW, Linear(first, max(last, first + 1)), y_scale
    )
    x_values = [
        value for value in nice_ticks(first, last, about=5) if first <= value <= last and value % 1 == 0
    ]
    lines = []
    for name, colour in zip(values, colours, strict=True):
        if name in points:
            steps, figures = (
                np.array(column, dtype=np.float64) for column in zip(*points[name], strict=True)
            )
            dots = [(rounded(x), rounded(y)) for x, y in zip(frame.x(steps), frame.y(figures), strict=True)]
            end_x, end_y = dots[-1]
            lines.append(
                Line(
                    css=level_css(colour),
                    path=frame.path(steps, figures),
                    dots=dots,
                    label=name,
                    label_x=rounded(end_x + 6),
                    label_y=rounded(end_y + 4),
                )
            )
    described = "; ".join(
        f"{name} from {number(found[0][1])} to {number(found[-1][1])}" for name, found in points.items()
    )
    marked = best(run)
    return frame.chart(
        f"Line chart of evaluations over the steps: {described}.",
        frame.x_ticks(x_values, [step_name(value, x_values[-1]) for value in x_values]),
        frame.y_ticks(y_values, y_names),
        bands=[_mark(marked, frame)] if marked else (),
        lines=spread(lines, frame),
    )


def _mark(marked: Evaluated, frame: Frame) -> Band:
    reached = f", {number(100 * marked.value)}" if math.isfinite(marked.value) else ""
    left = rounded(frame.x(marked.step) - BEST_WIDTH / 2)
    return Band(left, BEST_WIDTH, "best", f"best by {marked.metric}: step {marked.step}{reached}")
