"""The audit's two charts over the levels."""

from collections.abc import Mapping
from typing import Any

from mgh_ds.audit.statistics import Estimate
from mgh_ds.common.charts.chart import Chart, Frame, Linear, Mark, level_css, linear_axis, rounded

WIDTH, HEIGHT = 470.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 456.0, 14.0, 236.0
OFFSET = 13.0  # between the marks of two series at one level


def similarity_chart(figures: Mapping[str, Any], target: str) -> Chart:
    """Mean similarity to `target` by level, as asked for and permuted."""
    series = {name: figures[target][name]["mean"] for name in ("asked", "permuted")}
    return _chart(series, f"Mean similarity to the {target} by level", bars=False)


def share_chart(by_level: Mapping[str, Estimate], name: str) -> Chart:
    """A share of negatives by level, as bars from zero."""
    return _chart({"share": by_level}, name, bars=True)


def _chart(series: Mapping[str, Mapping[str, Estimate]], name: str, *, bars: bool) -> Chart:
    """A column a level; bars are in percent."""
    values = [figure for by_level in series.values() for figure in by_level.values()]
    levels = list(next(iter(series.values())))
    scale = 100 if bars else 1
    floor = 0.0 if bars else min(figure["low"] for figure in values)
    y_scale, ticks, names = linear_axis(floor, scale * max(figure["high"] for figure in values), about=5)
    frame = Frame(WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, Linear(0, len(levels)), y_scale)
    centres = {level: rounded(frame.x(at + 0.5)) for at, level in enumerate(levels)}

    def y(value: float) -> float:
        return rounded(frame.y(scale * value))

    marks = [
        Mark(
            css=f"{label} {level_css(level)}",
            x=rounded(centres[level] + OFFSET * (2 * at - len(series) + 1)),
            y=y(figure["value"]),
            low=y(figure["low"]),
            high=y(figure["high"]),
            title=f"level {level}, {label}: {figure['value']:.3f} "
            f"({figure['low']:.3f} to {figure['high']:.3f})",
        )
        for at, (label, by_level) in enumerate(series.items())
        for level, figure in by_level.items()
    ]
    return frame.chart(
        f"{name}. {'; '.join(mark.title for mark in marks)}.",
        frame.x_ticks([at + 0.5 for at in range(len(levels))], [f"level {level}" for level in levels]),
        frame.y_ticks(ticks, [f"{name} %" for name in names] if bars else names),
        marks=[] if bars else marks,
        bars=marks if bars else [],
    )
