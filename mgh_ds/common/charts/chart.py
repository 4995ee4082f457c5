"""A chart as plain geometry in SVG units: what `chart.svg.jinja` draws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mgh_ds.common.charts.scales import nice_ticks, tick_names

Array = npt.NDArray[np.float64]
CHARACTER = 6.3  # width of an average letter at the charts' font size
LEVEL_COLOURS = 4  # that `colours.css.jinja` has


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Band:
    """A stretch of the background; `name` is empty where it would not fit, `title` never."""

    x: float
    width: float
    name: str
    title: str


@dataclass(frozen=True)
class Line:
    """`path` and, behind it, `faint` are SVG path data; `dots` mark points of it, the label stands beside its
    end."""

    css: str
    path: str
    faint: str = ""
    dots: Sequence[tuple[float, float]] = ()
    label: str = ""
    label_x: float = 0.0
    label_y: float = 0.0


@dataclass(frozen=True)
class Mark:
    """A figure at (x, y) with its interval from y `low` to y `high`; `title` says it in words."""

    css: str
    x: float
    y: float
    low: float
    high: float
    title: str


@dataclass(frozen=True)
class Area:
    """A picture's size and, in it, the edges of the plotting area, in SVG units."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Chart(Area):
    """A chart in SVG units, ready to be drawn; `bars` are marks that stand on the axis."""

    alt: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    bands: Sequence[Band] = ()
    lines: Sequence[Line] = ()
    marks: Sequence[Mark] = ()
    bars: Sequence[Mark] = ()


class Scale(Protocol):
    """An axis' values on their way to places between 0 and 1."""

    def place(self, value: Array | float) -> Array:
        """From 0 at the axis' beginning to 1 at its end."""


class Linear(NamedTuple):
    """From `low` to `high`."""

    low: float
    high: float

    def place(self, value: Array | float) -> Array:
        return np.asarray((value - self.low) / (self.high - self.low))


class Logarithmic(NamedTuple):
    """From `low` to `high`, ticks at the powers of `base`."""

    low: float
    high: float
    base: int

    @classmethod
    def around(cls, values: Sequence[float], base: int) -> "Logarithmic":
        """Holds all values, with a margin; powers of 2 where those of `base` would be few."""
        low, high = min(values), max(values)
        margin = (high / low) ** 0.06 if high > low else 1.5
        return cls(low / margin, high * margin, 2 if high < 100 * low else base)

    def place(self, value: Array | float) -> Array:
        return np.asarray(np.log(value / self.low) / np.log(self.high / self.low))

    def ticks(self) -> list[float]:
        first = math.ceil(math.log(self.low, self.base))
        last = math.floor(math.log(self.high, self.base))
        return [float(self.base) ** power for power in range(first, last + 1)]


@dataclass(frozen=True)
class Frame(Area):
    """The plotting area, and what its two axes span."""

    x_scale: Scale
    y_scale: Scale

    def x(self, value: Array | float) -> Array:
        return np.asarray(self.left + self.x_scale.place(value) * (self.right - self.left))

    def y(self, value: Array | float) -> Array:
        return np.asarray(self.bottom - self.y_scale.place(value) * (self.bottom - self.top))

    def x_ticks(self, values: Sequence[float], names: Sequence[str]) -> list[Tick]:
        return [Tick(rounded(self.x(value)), name) for value, name in zip(values, names, strict=True)]

    def y_ticks(self, values: Sequence[float], names: Sequence[str]) -> list[Tick]:
        return [Tick(rounded(self.y(value)), name) for value, name in zip(values, names, strict=True)]

    def path(self, x: Array, y: Array) -> str:
        """SVG path data through the points; one alone becomes a short dash, for a dot would hardly show."""
        points = [f"{at:.1f},{height:.1f}" for at, height in zip(self.x(x), self.y(y), strict=True)]
        return "M" + " ".join(points) if len(points) > 1 else f"M{points[0]}m-2,0h4"

    def chart(
        self,
        alt: str,
        x_ticks: Sequence[Tick],
        y_ticks: Sequence[Tick],
        *,
        bands: Sequence[Band] = (),
        lines: Sequence[Line] = (),
        marks: Sequence[Mark] = (),
        bars: Sequence[Mark] = (),
    ) -> Chart:
        """The chart with all that is in it; `alt` says in words what it shows."""
        edges = self.left, self.right, self.top, self.bottom
        return Chart(self.width, self.height, *edges, alt, x_ticks, y_ticks, bands, lines, marks, bars)


def linear_axis(low: float, high: float, about: int) -> tuple[Linear, list[float], list[str]]:
    """A scale that holds [low, high], and the round numbers on it, `about` so many, with their names."""
    values = nice_ticks(low, high, about)
    return Linear(values[0], values[-1]), values, tick_names(values)


def level_css(level: str) -> str:
    """The classes that give a level of negatives its colour; levels beyond those with a colour of their own
    begin again, dashed."""
    if not level.isdecimal() or int(level) <= LEVEL_COLOURS:
        return f"level-{level}"
    return f"level-{(int(level) - 1) % LEVEL_COLOURS + 1} beyond"


def rounded(value: Array | float) -> float:
    """A place in SVG units, to a tenth."""
    return round(float(value), 1)
