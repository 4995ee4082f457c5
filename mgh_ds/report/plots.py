"""The run's line charts over the steps: loss, accuracy and margin by level, and its instruments."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mgh_ds.common.charts.chart import (
    CHARACTER,
    Array,
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
from mgh_ds.report.data import Level, Run, StageSteps, Step
from mgh_ds.report.levels import level_name

Pieces = list[tuple[Array, Array]]  # a line as its unbroken stretches: steps and values, float64 [points]

MOST_POINTS = 400  # a longer run's lines are thinned to about as many points as a chart has room for
WIDE, HALF, SMALL = (960.0, 300.0), (470.0, 300.0), (470.0, 170.0)  # widths and heights in SVG units
LINE_HEIGHT = 14.0
LEFT, TOP, BELOW = 46.0, 24.0, 24.0  # margins; the right one grows with the labels


@dataclass(frozen=True)
class Series:
    """One line: the values as logged and their running mean, both thinned."""

    label: str
    css: str
    values: Pieces
    mean: Pieces


def loss_chart(run: Run) -> Chart | None:
    """Loss over the steps, all stages in one wide chart."""
    return _single(run, "loss", lambda step: step.loss, WIDE)


def accuracy_chart(run: Run) -> Chart | None:
    """Share of each level's negatives that score below the positive, in percent."""
    return _by_level(run, "accuracy in percent", lambda level: 100 * level.accuracy, include=(90, 100))


def margin_chart(run: Run) -> Chart | None:
    """Mean of cos(query, positive) − cos(query, negative) for each level."""
    return _by_level(run, "margin", lambda level: level.margin)


def small_charts(run: Run) -> list[tuple[str, Chart | None]]:
    """The instruments of a run by name, each from zero: throughput, learning rate and gradient norm, and
    those of the others that the run has measured."""
    window = smoothing_window(run)
    instruments: list[tuple[str, Callable[[Step], float], int]] = [
        ("texts per second", lambda step: step.texts_per_s, window),
        ("tokens per second", lambda step: step.tokens_per_s, window),
        ("learning rate", lambda step: step.lr, 1),  # set, not measured: nothing to smooth
        ("gradient norm", lambda step: step.grad_norm, window),
    ]
    measured: list[tuple[str, Callable[[Step], float], int]] = [
        ("model FLOPs utilisation in percent", lambda step: 100 * step.mfu, window),
        ("memory in GB", lambda step: step.memory_bytes / 1e9, 1),
        ("padding saved in percent", lambda step: 100 * step.padding_saved, window),
        ("padding spent in percent", lambda step: 100 * step.padding_spent, window),
        ("waiting for batches in percent", lambda step: 100 * step.wait_share, window),
    ]
    instruments += [each for each in measured if any(each[1](step) > 0 for step in run.steps)]
    return [(name, _single(run, name, value, SMALL, (0,), window)) for name, value, window in instruments]


def running_mean(values: Array, weights: Array, window: int) -> Array:
    """Weighted mean over `window` neighbours, centred, fewer at the ends; NaN where none has a value."""
    known = np.isfinite(values)
    mass = np.concatenate([[0.0], np.cumsum(np.where(known, weights, 0.0))])
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values * weights, 0.0))])
    index = np.arange(len(values))
    low, high = np.maximum(index - window // 2, 0), np.minimum(index + window // 2 + 1, len(values))
    near = mass[high] - mass[low]
    return np.where(near > 0, (total[high] - total[low]) / np.where(near > 0, near, 1.0), np.nan)


def smoothing_window(run: Run) -> int:
    """How many steps the drawn lines average over: about a fifteenth of the run, odd."""
    return len(run.steps) // 15 | 1


def thinning(run: Run) -> int:
    """How many consecutive steps become one drawn point: 1 unless the run is long."""
    return math.ceil(len(run.steps) / MOST_POINTS) or 1


def _single(
    run: Run,
    name: str,
    value: Callable[[Step], float],
    size: tuple[float, float],
    include: tuple[float, ...] = (),
    window: int | None = None,
) -> Chart | None:
    """A chart of one value a step, its line labelled with the value it ends on."""
    values = np.array([value(step) for step in run.steps], dtype=np.float64)
    if not np.isfinite(values).any():
        return None
    mean = _smooth(run, values, np.ones(len(values)), window or smoothing_window(run))
    first, last = _ends(mean)
    ends = f"{number(first)} at first, {number(last)} at last"
    alt = f"Line chart of the {name} over {len(run.steps)} steps: {ends}."
    line = Series(number(last), "single", _pieces(run, values), _pieces(run, mean))
    return _chart(run, [line], alt, size, include)


def _by_level(
    run: Run, name: str, value: Callable[[Level], float], include: tuple[float, ...] = ()
) -> Chart | None:
    """A chart with a line for each level; the running mean weighs a step by its number of negatives."""
    lines, described = [], []
    for level in run.levels:
        logged = [step.levels.get(level) for step in run.steps]
        values = np.array([value(one) if one and one.count else math.nan for one in logged], dtype=np.float64)
        counts = np.array([one.count if one else 0 for one in logged], dtype=np.float64)
        if np.isfinite(values).any():
            label = level_name(level)
            mean = _smooth(run, values, counts, smoothing_window(run))
            lines.append(Series(label, level_css(level), _pieces(run, values), _pieces(run, mean)))
            first, last = _ends(mean)
            described.append(f"{label} from {number(first)} to {number(last)}")
    if not lines:
        return None
    alt = f"Line chart of the {name} by level over {len(run.steps)} steps: {'; '.join(described)}."
    return _chart(run, lines, alt, HALF, include)


def _chart(
    run: Run, series: list[Series], alt: str, size: tuple[float, float], include: tuple[float, ...]
) -> Chart:
    """Lays the lines out on a frame that holds all their values, and those in `include` too."""
    width, height = size
    drawn = [values for one in series for _steps, values in one.values + one.mean]
    shown = np.concatenate([np.array(include, dtype=np.float64), *drawn])
    y_scale, y_values, y_names = linear_axis(
        float(shown.min()), float(shown.max()), about=max(3, round(height / 60))
    )
    first, last = run.steps[0].step, run.steps[-1].step
    right_margin = max(67.0, 10 + CHARACTER * max(len(one.label) for one in series))
    x_scale = Linear(first - 0.5, last + 0.5)
    frame = Frame(width, height, LEFT, width - right_margin, TOP, height - BELOW, x_scale, y_scale)
    x_values = [
        v for v in nice_ticks(first, last, about=round(width / 90)) if first <= v <= last and v % 1 == 0
    ]
    return frame.chart(
        alt,
        frame.x_ticks(x_values, [step_name(value, x_values[-1]) for value in x_values]),
        frame.y_ticks(y_values, y_names),
        bands=[_band(stage, frame) for stage in run.stages],
        lines=spread([_line(one, frame) for one in series], frame),
    )


def step_name(step: float, last: float) -> str:
    return f"step {step:,.0f}" if step == last else f"{step:,.0f}"


def _band(stage: StageSteps, frame: Frame) -> Band:
    left, right = float(frame.x(stage.first - 0.5)), float(frame.x(stage.last + 0.5))
    fits = CHARACTER * len(stage.name) <= right - left
    title = f"{stage.name}: steps {stage.first} to {stage.last}"
    return Band(rounded(left), rounded(right - left), stage.name if fits else "", title)


def _line(series: Series, frame: Frame) -> Line:
    steps, values = series.mean[-1]
    return Line(
        css=series.css,
        path=_paths(frame, series.mean),
        faint=_paths(frame, series.values),
        label=series.label,
        label_x=rounded(frame.x(steps[-1]) + 6),
        label_y=rounded(frame.y(values[-1]) + 4),
    )


def spread(lines: list[Line], frame: Frame) -> list[Line]:
    """Moves labels that stand beside each other apart, up or down, until none covers another."""
    placed: dict[float, list[Line]] = {}
    for line in sorted(lines, key=lambda line: line.label_y):
        placed.setdefault(line.label_x, []).append(line)
    result = []
    for column in placed.values():
        heights = [line.label_y for line in column]
        for index in range(1, len(heights)):
            heights[index] = max(heights[index], heights[index - 1] + LINE_HEIGHT)
        lift = max(0.0, heights[-1] - frame.bottom)
        result += [
            replace(line, label_y=rounded(height - lift))
            for line, height in zip(column, heights, strict=True)
        ]
    return result


def _ends(smooth: Array) -> tuple[float, float]:
    """The first and the last value that is there."""
    known = smooth[np.isfinite(smooth)]
    return float(known[0]), float(known[-1])


def _smooth(run: Run, values: Array, weights: Array, window: int) -> Array:
    """The running mean within each stage: a mean across a boundary would blur the change of negatives."""
    return np.concatenate([running_mean(values[part], weights[part], window) for part in _parts(run)])


def _paths(frame: Frame, pieces: Pieces) -> str:
    return "".join(frame.path(steps, values) for steps, values in pieces)


def _pieces(run: Run, values: Array) -> Pieces:
    """The stretches of values without a gap within a stage, each thinned."""
    steps = np.array([step.step for step in run.steps], dtype=np.float64)
    pieces = []
    for part in _parts(run):
        known = np.flatnonzero(np.isfinite(values[part])) + part.start
        for stretch in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
            if stretch.size:
                pieces.append((_thin(steps[stretch], thinning(run)), _thin(values[stretch], thinning(run))))
    return pieces


def _parts(run: Run) -> list[slice]:
    """The stages as slices of the run's steps."""
    ends = np.cumsum([len(stage.steps) for stage in run.stages]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _thin(values: Array, count: int) -> Array:
    """The means of `count` neighbouring values each; the last mean may be of fewer."""
    if count == 1:
        return values
    starts = np.arange(0, len(values), count)
    return np.asarray(np.add.reduceat(values, starts) / np.diff([*starts, len(values)]), dtype=np.float64)
