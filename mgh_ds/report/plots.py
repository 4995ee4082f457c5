"""Line charts over the steps as plain geometry: ticks, stage bands, paths and labels in SVG units.

`chart.svg.jinja` turns a `Chart` into inline SVG. The page draws its own SVG so that the colours follow the
reader's light or dark theme, the letters stay text, and nothing has to be fetched.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mgh_ds.report.data import Level, Run, Stage, Step
from mgh_ds.report.scales import nice_ticks, number, tick_names

Array = npt.NDArray[np.float64]
Pieces = list[tuple[Array, Array]]  # a line as its unbroken stretches: steps and values, float64 [points]

MOST_POINTS = 400  # a longer run's lines are thinned to about as many points as a chart has room for
WIDE, HALF, SMALL = (960.0, 300.0), (470.0, 300.0), (470.0, 170.0)  # widths and heights in SVG units
LINE_HEIGHT = 14.0
CHARACTER = 6.3  # width of an average letter at the charts' font size


@dataclass(frozen=True)
class Series:
    """One line: the values as logged and their running mean, both thinned."""

    label: str
    css: str
    values: Pieces
    mean: Pieces


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Band:
    """A stage's background; `name` is empty where it would not fit, `title` never."""

    x: float
    width: float
    name: str
    title: str


@dataclass(frozen=True)
class Line:
    """`path` is the running mean, `faint` the raw values; the label stands right of the last point."""

    css: str
    path: str
    faint: str
    label: str
    label_x: float
    label_y: float


@dataclass(frozen=True)
class Chart:
    """A chart in SVG units, ready to be drawn."""

    alt: str
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    bands: list[Band]
    lines: list[Line]


@dataclass(frozen=True)
class Frame:
    """The plotting area in SVG units, and the ranges of steps and values that it spans."""

    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    right_margin: float
    left: float = 46.0
    top: float = 24.0
    bottom_margin: float = 24.0

    @property
    def right(self) -> float:
        return self.width - self.right_margin

    @property
    def bottom(self) -> float:
        return self.height - self.bottom_margin

    def x(self, step: Array | float) -> Array:
        low, high = self.x_range
        return np.asarray(self.left + (step - low) / (high - low) * (self.right - self.left))

    def y(self, value: Array | float) -> Array:
        low, high = self.y_range
        return np.asarray(self.bottom - (value - low) / (high - low) * (self.bottom - self.top))


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
    """The instruments of a run by name: throughput, learning rate and gradient norm, each from zero."""
    window = smoothing_window(run)
    instruments: list[tuple[str, Callable[[Step], float], int]] = [
        ("texts per second", lambda step: step.texts_per_s, window),
        ("tokens per second", lambda step: step.tokens_per_s, window),
        ("learning rate", lambda step: step.lr, 1),  # set, not measured: nothing to smooth
        ("gradient norm", lambda step: step.grad_norm, window),
    ]
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
    told = f"{number(first)} at first, {number(last)} at last"
    alt = f"Line chart of the {name} over {len(run.steps)} steps: {told}."
    line = Series(number(last), "single", _pieces(run, values), _pieces(run, mean))
    return _chart(run, [line], alt, size, include)


def _by_level(
    run: Run, name: str, value: Callable[[Level], float], include: tuple[float, ...] = ()
) -> Chart | None:
    """A chart with a line for each level; the running mean weighs a step by its number of negatives."""
    lines, told = [], []
    for level in run.levels:
        logged = [step.levels.get(level) for step in run.steps]
        values = np.array([value(one) if one and one.count else math.nan for one in logged], dtype=np.float64)
        counts = np.array([one.count if one else 0 for one in logged], dtype=np.float64)
        if np.isfinite(values).any():
            label = "ungraded" if level == "null" else f"level {level}"
            mean = _smooth(run, values, counts, smoothing_window(run))
            lines.append(Series(label, f"level-{level}", _pieces(run, values), _pieces(run, mean)))
            first, last = _ends(mean)
            told.append(f"{label} from {number(first)} to {number(last)}")
    if not lines:
        return None
    alt = f"Line chart of the {name} by level over {len(run.steps)} steps: {'; '.join(told)}."
    return _chart(run, lines, alt, HALF, include)


def _chart(
    run: Run, series: list[Series], alt: str, size: tuple[float, float], include: tuple[float, ...]
) -> Chart:
    """Lays the lines out on a frame that holds all their values, and those in `include` too."""
    width, height = size
    drawn = [values for one in series for _steps, values in one.values + one.mean]
    shown = np.concatenate([np.array(include, dtype=np.float64), *drawn])
    y_values = nice_ticks(float(shown.min()), float(shown.max()), about=max(3, round(height / 60)))
    first, last = run.steps[0].step, run.steps[-1].step
    frame = Frame(
        width=width,
        height=height,
        x_range=(first - 0.5, last + 0.5),
        y_range=(y_values[0], y_values[-1]),
        right_margin=max(67.0, 10 + CHARACTER * max(len(one.label) for one in series)),
    )
    x_values = [
        v for v in nice_ticks(first, last, about=round(width / 90)) if first <= v <= last and v % 1 == 0
    ]
    return Chart(
        alt=alt,
        width=width,
        height=height,
        left=frame.left,
        right=frame.right,
        top=frame.top,
        bottom=frame.bottom,
        x_ticks=[Tick(_round(frame.x(value)), _step_name(value, x_values[-1])) for value in x_values],
        y_ticks=[
            Tick(_round(frame.y(value)), name)
            for value, name in zip(y_values, tick_names(y_values), strict=True)
        ],
        bands=[_band(stage, frame) for stage in run.stages],
        lines=_spread([_line(one, frame) for one in series], frame),
    )


def _step_name(step: float, last: float) -> str:
    return f"step {step:,.0f}" if step == last else f"{step:,.0f}"


def _band(stage: Stage, frame: Frame) -> Band:
    left, right = float(frame.x(stage.first - 0.5)), float(frame.x(stage.last + 0.5))
    fits = CHARACTER * len(stage.name) <= right - left
    title = f"{stage.name}: steps {stage.first} to {stage.last}"
    return Band(_round(left), _round(right - left), stage.name if fits else "", title)


def _line(series: Series, frame: Frame) -> Line:
    steps, values = series.mean[-1]
    return Line(
        css=series.css,
        path=_path(frame, series.mean),
        faint=_path(frame, series.values),
        label=series.label,
        label_x=_round(frame.x(steps[-1]) + 6),
        label_y=_round(frame.y(values[-1]) + 4),
    )


def _spread(lines: list[Line], frame: Frame) -> list[Line]:
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
            Line(line.css, line.path, line.faint, line.label, line.label_x, _round(height - lift))
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


def _path(frame: Frame, pieces: Pieces) -> str:
    """SVG path data; a piece of one point becomes a short dash, for a dot would hardly show."""
    paths = []
    for steps, values in pieces:
        points = [f"{x:.1f},{y:.1f}" for x, y in zip(frame.x(steps), frame.y(values), strict=True)]
        paths.append("M" + " ".join(points) if len(points) > 1 else f"M{points[0]}m-2,0h4")
    return "".join(paths)


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


def _round(value: Array | float) -> float:
    return round(float(value), 1)
