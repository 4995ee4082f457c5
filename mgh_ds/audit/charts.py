"""Charts over the four levels as plain geometry in SVG units; `chart.svg.jinja` draws them.

The page draws its own SVG so that colours follow the reader's light or dark theme and nothing is fetched.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mgh_ds.audit.statistics import Estimate

WIDTH, HEIGHT = 470.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 456.0, 14.0, 236.0
OFFSET = 13.0  # between the marks of two series at one level
MOST_TICKS = 7
STEPS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25)  # between ticks


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
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart in SVG units, ready to be drawn; `bars` are marks that stand on the axis."""

    alt: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: list[Mark]
    bars: list[Mark]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = RIGHT
    bottom: float = BOTTOM


def similarity_chart(figures: Mapping[str, Any], target: str) -> Chart:
    """Mean similarity to `target` by level, as asked for and permuted."""
    series = {name: figures[target][name]["mean"] for name in ("asked", "permuted")}
    return _chart(series, f"Mean similarity to the {target} by level", bars=False)


def false_negative_chart(by_level: Mapping[str, Estimate]) -> Chart:
    """The share of false negatives by level, as bars from zero."""
    return _chart({"share": by_level}, "Share of false negatives by level", bars=True)


def _chart(series: Mapping[str, Mapping[str, Estimate]], name: str, *, bars: bool) -> Chart:
    values = [figure for by_level in series.values() for figure in by_level.values()]
    floor = 0.0 if bars else min(figure["low"] for figure in values)
    ticks = _ticks(floor, max(figure["high"] for figure in values))

    def y(value: float) -> float:
        return round(BOTTOM - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (BOTTOM - TOP), 1)

    levels = list(next(iter(series.values())))
    centres = {level: LEFT + (RIGHT - LEFT) * (at + 0.5) / len(levels) for at, level in enumerate(levels)}
    marks = [
        Mark(
            css=f"{label} level-{level}",
            x=round(centres[level] + OFFSET * (2 * at - len(series) + 1), 1),
            y=y(figure["value"]),
            low=y(figure["low"]),
            high=y(figure["high"]),
            title=f"level {level}, {label}: {figure['value']:.3f} "
            f"({figure['low']:.3f} to {figure['high']:.3f})",
        )
        for at, (label, by_level) in enumerate(series.items())
        for level, figure in by_level.items()
    ]
    return Chart(
        alt=f"{name}. {'; '.join(mark.title for mark in marks)}.",
        x_ticks=[Tick(round(x, 1), f"level {level}") for level, x in centres.items()],
        y_ticks=[Tick(y(tick), _tick_name(tick, bars)) for tick in ticks],
        marks=[] if bars else marks,
        bars=marks if bars else [],
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that enclose [low, high], a few of them."""
    step = next((step for step in STEPS if (high - low) / step <= MOST_TICKS - 2), STEPS[-1])
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 6) for index in range(first, max(last, first + 1) + 1)]


def _tick_name(value: float, percent: bool) -> str:
    return f"{100 * value:g} %" if percent else f"{value:.2f}".replace("-", "−")
