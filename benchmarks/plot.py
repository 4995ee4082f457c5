"""Line charts as an SVG file, both axes logarithmic: panels side by side, one legend below."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mgh_ds.common import files
from mgh_ds.common.charts.chart import Chart, Frame, Line, Logarithmic, rounded
from mgh_ds.common.templates import page_environment

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


def write(path: Path, panels: Sequence[Panel]) -> None:
    files.write_text(path, render(panels))


def render(panels: Sequence[Panel]) -> str:
    """The SVG; panels without points are left out."""
    panels = [panel for panel in panels if any(panel.lines.values())]
    names = list(dict.fromkeys(name for panel in panels for name, points in panel.lines.items() if points))
    css = {name: f"series-{number % len(COLOURS)}" for number, name in enumerate(names)}
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
    template = page_environment(Path(__file__).parent, autoescape=True).get_template("plot.svg.jinja")
    return template.render(
        width=width,
        height=TOP + HEIGHT + BELOW + LEGEND_LINE * math.ceil(len(names) / LEGEND_COLUMNS),
        colours=COLOURS,
        charts=[(panel, _chart(panel, css)) for panel in panels],
        legend=legend,
    )


def _chart(panel: Panel, css: Mapping[str, str]) -> Chart:
    points = [point for line in panel.lines.values() for point in line]
    x_scale = Logarithmic.around([x for x, _ in points], 2)
    y_scale = Logarithmic.around([y for _, y in points], 10)
    right, bottom = LEFT + WIDTH, TOP + HEIGHT
    frame = Frame(right, bottom + BELOW, LEFT, right, TOP, bottom, x_scale, y_scale)
    return frame.chart(
        f"{panel.title}: {panel.y_label} over {panel.x_label}",
        frame.x_ticks(x_scale.ticks(), [_short(value) for value in x_scale.ticks()]),
        frame.y_ticks(y_scale.ticks(), [_short(value) for value in y_scale.ticks()]),
        lines=[_line(frame, css[name], line) for name, line in panel.lines.items() if line],
    )


def _line(frame: Frame, css: str, points: Points) -> Line:
    x, y = np.array(sorted(points), dtype=np.float64).T
    dots = [(rounded(at), rounded(height)) for at, height in zip(frame.x(x), frame.y(y), strict=True)]
    return Line(css, frame.path(x, y), dots=dots)


def _short(value: float) -> str:
    """512, 1k, 32k, 0.01."""
    if value >= 1024 and value % 1024 == 0:
        return f"{value / 1024:g}k"
    return f"{value:g}"
