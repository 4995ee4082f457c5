"""Charts as an SVG file of its own: panels side by side, one legend below."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mgh_ds.common import files
from mgh_ds.common.charts.chart import Chart, Frame, Line, Logarithmic, linear_axis, rounded
from mgh_ds.common.templates import CHARTS, page_environment

Points = Sequence[tuple[float, float]]

# Told apart by the colour-blind (Okabe and Ito), and on white as on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")
WIDTH, HEIGHT = 330, 220  # of a panel's frame
LEFT, TOP, BELOW, LEGEND_LINE, LEGEND_COLUMNS = 54, 34, 46, 18, 3


class Panel(NamedTuple):
    """One frame; lines of the same name have the same colour in all panels."""

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Points]
    scattered: bool = False
    """Points that no line joins, both axes linear, instead of lines with both axes logarithmic."""
    levels: Sequence[str] = ()
    """Names through whose points a faint line goes, at the same y across the whole frame."""


def write(path: Path, panels: Sequence[Panel]) -> None:
    files.write_text(path, render(panels))


def render(panels: Sequence[Panel]) -> str:
    """The SVG; panels without points are left out."""
    panels = [panel for panel in panels if any(panel.lines.values())]
    names = list(dict.fromkeys(name for panel in panels for name, points in panel.lines.items() if points))
    css = {name: _css(number) for number, name in enumerate(names)}
    width = max(1, len(panels)) * (LEFT + WIDTH) + 16
    legend = [
        (
            LEFT + number % LEGEND_COLUMNS * (width - LEFT) // LEGEND_COLUMNS,
            TOP + HEIGHT + BELOW + number // LEGEND_COLUMNS * LEGEND_LINE,
            css[name],
            name,
        )
        for number, name in enumerate(names)
    ]
    template = page_environment(CHARTS, autoescape=True).get_template("figure.svg.jinja")
    return template.render(
        width=width,
        height=TOP + HEIGHT + BELOW + LEGEND_LINE * math.ceil(len(names) / LEGEND_COLUMNS),
        colours=COLOURS,
        charts=[(panel, _chart(panel, css)) for panel in panels],
        legend=legend,
        dots_alone={css[name] for panel in panels if panel.scattered for name in panel.lines if name in css},
    )


def _css(number: int) -> str:
    """Of a series; those beyond the colours begin again, hollow."""
    return f"series-{number % len(COLOURS)}" + (" hollow" if number >= len(COLOURS) else "")


def _chart(panel: Panel, css: Mapping[str, str]) -> Chart:
    points = [point for line in panel.lines.values() for point in line]
    right, bottom = LEFT + WIDTH, TOP + HEIGHT
    alt = f"{panel.title}: {panel.y_label} over {panel.x_label}"
    area = right, bottom + BELOW, LEFT, right, TOP, bottom
    named = [(name, line) for name, line in panel.lines.items() if line]
    if panel.scattered:
        (x_scale, x_values, x_names), (y_scale, y_values, y_names) = (
            linear_axis(min(values), max(values), about=5) for values in zip(*points, strict=True)
        )
        frame = Frame(*area, x_scale, y_scale)
        lines = [_scattered(frame, css[name], line, name in panel.levels) for name, line in named]
        return frame.chart(
            alt, frame.x_ticks(x_values, x_names), frame.y_ticks(y_values, y_names), lines=lines
        )
    log_x = Logarithmic.around([x for x, _ in points], 2)
    log_y = Logarithmic.around([y for _, y in points], 10)
    frame = Frame(*area, log_x, log_y)
    return frame.chart(
        alt,
        frame.x_ticks(log_x.ticks(), [_short(value) for value in log_x.ticks()]),
        frame.y_ticks(log_y.ticks(), [_short(value) for value in log_y.ticks()]),
        lines=[_line(frame, css[name], line) for name, line in named],
    )


def _line(frame: Frame, css: str, points: Points) -> Line:
    x, y = np.array(sorted(points), dtype=np.float64).T
    return Line(css, frame.path(x, y), dots=_dots(frame, points))


def _scattered(frame: Frame, css: str, points: Points, level: bool) -> Line:
    across = "".join(f"M{frame.left},{rounded(frame.y(y))}H{frame.right}" for _, y in points if level)
    return Line(css, path="", faint=across, dots=_dots(frame, points))


def _dots(frame: Frame, points: Points) -> list[tuple[float, float]]:
    return [(rounded(frame.x(x)), rounded(frame.y(y))) for x, y in sorted(points)]


def _short(value: float) -> str:
    """512, 1k, 32k, 0.01."""
    if value >= 1024 and value % 1024 == 0:
        return f"{value / 1024:g}k"
    return f"{value:g}"
