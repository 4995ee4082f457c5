"""Line charts as SVG, both axes logarithmic: panels side by side, one legend below."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from mgh_ds.common import files

Points = Sequence[tuple[float, float]]

# Told apart by the colour-blind (Okabe and Ito), and on white as on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")
WIDTH, HEIGHT = 330, 220  # of a panel's frame
LEFT, TOP, BOTTOM, LINE = 54, 34, 46, 18
STYLE = (
    "<style>text { fill: #333 } .rule { stroke: #8884 } "
    "@media (prefers-color-scheme: dark) { text { fill: #ccc } }</style>"
)


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
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    width = max(1, len(panels)) * (LEFT + WIDTH) + 16
    height = TOP + HEIGHT + BOTTOM + LINE * math.ceil(len(names) / 3)
    body = [_panel(panel, i * (LEFT + WIDTH) + LEFT, colours) for i, panel in enumerate(panels)]
    for i, name in enumerate(names):
        x, y = LEFT + i % 3 * (width - LEFT) // 3, TOP + HEIGHT + BOTTOM + i // 3 * LINE
        body.append(f'<path d="M{x},{y}h18" stroke="{colours[name]}" stroke-width="2.5"/>')
        body.append(f'<text x="{x + 24}" y="{y + 4}">{escape(name)}</text>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="11" fill="none">'
    )
    return "\n".join([head, STYLE, *body, "</svg>", ""])


def _panel(panel: Panel, left: int, colours: Mapping[str, str]) -> str:
    points = [point for line in panel.lines.values() for point in line]
    x_axis, y_axis = _Axis.of([x for x, _ in points], 2), _Axis.of([y for _, y in points], 10)
    parts = [f'<text x="{left}" y="{TOP - 14}" font-weight="bold">{escape(panel.title)}</text>']
    for value in x_axis.ticks():
        x = left + x_axis.place(value) * WIDTH
        parts.append(f'<path class="rule" d="M{x:.1f},{TOP}v{HEIGHT}"/>')
        parts.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 14}" text-anchor="middle">{_short(value)}</text>')
    for value in y_axis.ticks():
        y = TOP + (1 - y_axis.place(value)) * HEIGHT
        parts.append(f'<path class="rule" d="M{left},{y:.1f}h{WIDTH}"/>')
        parts.append(f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    middle = left + WIDTH / 2
    parts.append(
        f'<text x="{middle}" y="{TOP + HEIGHT + 29}" text-anchor="middle">{escape(panel.x_label)}</text>'
    )
    parts.append(f'<text x="{left + 4}" y="{TOP + 12}">{escape(panel.y_label)}</text>')
    for name, line in panel.lines.items():
        spots = [
            (left + x_axis.place(x) * WIDTH, TOP + (1 - y_axis.place(y)) * HEIGHT) for x, y in sorted(line)
        ]
        if not spots:
            continue
        path = "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<path d="{path}" stroke="{colours[name]}" stroke-width="1.8"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4" fill="{colours[name]}"/>' for x, y in spots]
    return "\n".join(parts)


class _Axis(NamedTuple):
    """A logarithmic axis from `low` to `high`, ticks at the powers of `base`, or of 2 if those are few."""

    low: float
    high: float
    base: int

    @classmethod
    def of(cls, values: Sequence[float], base: int) -> "_Axis":
        low, high = min(values), max(values)
        margin = (high / low) ** 0.06 if high > low else 1.5
        return cls(low / margin, high * margin, 2 if high < 100 * low else base)

    def place(self, value: float) -> float:
        """From 0 at `low` to 1 at `high`."""
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        first, last = (
            f(math.log(value, self.base)) for f, value in ((math.ceil, self.low), (math.floor, self.high))
        )
        return [float(self.base) ** i for i in range(first, last + 1)]


def _short(value: float) -> str:
    """512, 1k, 32k, 0.01."""
    if value >= 1024 and value % 1024 == 0:
        return f"{value / 1024:g}k"
    return f"{value:g}"
