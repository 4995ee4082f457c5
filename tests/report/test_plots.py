"""The charts' geometry: every drawn point stands where its value says."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgh_ds.common.charts.scales import nice_ticks, number, tick_names
from mgh_ds.report import plots
from mgh_ds.report.data import Level, Run, RunInfo, Step, load_run

finite = st.floats(-1e6, 1e6, allow_subnormal=False)


def training(stages, loss=lambda step: float(step), levels=None):
    """A run of the given number of steps per stage."""
    steps = []
    for stage, count in enumerate(stages):
        for _ in range(count):
            step = len(steps) + 1
            steps.append(
                Step(
                    step=step,
                    stage=stage,
                    stage_name=f"stage {stage}",
                    loss=loss(step),
                    levels=levels(step) if levels else {},
                )
            )
    return Run(None, RunInfo(), steps, [], None, None, [], None, [])


def points(path):
    """SVG path data as its pieces, each a list of (x, y)."""
    return [
        [tuple(map(float, pair.split(","))) for pair in piece.removesuffix("m-2,0h4").split()]
        for piece in path.split("M")[1:]
    ]


def value_at(chart, y):
    """The value at a height, read off the axis as a person would: between its first and its last tick."""
    low, high = chart.y_ticks[0], chart.y_ticks[-1]
    low_value, high_value = float(low.text), float(high.text)
    return low_value + (y - low.at) / (high.at - low.at) * (high_value - low_value)


def test_points_stand_where_the_axes_say():
    chart = plots.loss_chart(training([6, 6], loss=lambda step: 0.1 * step))
    assert chart is not None
    drawn = [point for piece in points(chart.lines[0].faint) for point in piece]
    assert [value_at(chart, y) for _x, y in drawn] == pytest.approx(
        [0.1 * step for step in range(1, 13)], abs=5e-3
    )
    assert np.diff([x for x, _y in drawn]) == pytest.approx(drawn[1][0] - drawn[0][0], abs=0.11)


def test_a_line_breaks_at_a_stage_and_at_a_gap():
    gap = plots.loss_chart(training([5, 7], loss=lambda step: math.nan if step == 8 else 1.0))
    assert gap is not None
    assert [len(piece) for piece in points(gap.lines[0].faint)] == [5, 2, 4]


def test_the_running_mean_does_not_cross_a_stage():
    chart = plots.loss_chart(training([30, 30], loss=lambda step: 1.0 if step <= 30 else 3.0))
    assert chart is not None
    first, second = points(chart.lines[0].path)
    assert [value_at(chart, y) for _x, y in first] == pytest.approx([1.0] * 30)
    assert [value_at(chart, y) for _x, y in second] == pytest.approx([3.0] * 30)


def test_bands_cover_the_plot_without_overlap_and_name_their_stage():
    chart = plots.loss_chart(training([30, 2, 28]))
    assert chart is not None
    edges = [(band.x, band.x + band.width) for band in chart.bands]
    assert edges[0][0] == chart.left
    assert edges[-1][1] == pytest.approx(chart.right, abs=0.11)
    assert all(a[1] == pytest.approx(b[0], abs=0.11) for a, b in itertools.pairwise(edges))
    assert [band.name for band in chart.bands] == ["stage 0", "", "stage 2"]  # no room for the middle one
    assert chart.bands[1].title == "stage 1: steps 31 to 32"


def test_one_step_is_drawn_as_a_dash():
    chart = plots.loss_chart(training([1]))
    assert chart is not None
    assert re.fullmatch(r"M[\d.]+,[\d.]+m-2,0h4", chart.lines[0].path)


def test_nothing_finite_is_no_chart():
    assert plots.loss_chart(training([4], loss=lambda _step: math.nan)) is None
    assert plots.accuracy_chart(training([4])) is None


def test_a_long_run_is_thinned():
    chart = plots.loss_chart(training([9_998, 30_002], loss=lambda step: 0.0 if step <= 9_998 else 5.0))
    assert chart is not None
    first, second = points(chart.lines[0].faint)
    assert (len(first), len(second)) == (100, 301)  # 100 steps a point in either stage, the rest in one more
    assert [value_at(chart, y) for _x, y in first] == pytest.approx([0.0] * 100)
    assert [value_at(chart, y) for _x, y in second] == pytest.approx([5.0] * 301)


def test_a_mean_of_neighbours_is_drawn_not_a_choice_of_one():
    """Where two steps share a point, a spike at one of them shows at half its height."""
    chart = plots.loss_chart(
        training([plots.MOST_POINTS * 2], loss=lambda step: 10.0 if step == 300 else 0.0)
    )
    assert chart is not None
    [drawn] = points(chart.lines[0].faint)
    assert value_at(chart, min(y for _x, y in drawn)) == pytest.approx(5.0)


def test_levels_have_their_own_lines_and_labels_apart():
    levels = {level: Level(accuracy=0.9, margin=0.2, count=8) for level in ("1", "2", "3", "4", "null")}
    chart = plots.accuracy_chart(training([12], levels=lambda _step: levels))
    assert chart is not None
    assert [line.label for line in chart.lines] == ["level 1", "level 2", "level 3", "level 4", "ungraded"]
    assert [line.css for line in chart.lines] == ["level-1", "level-2", "level-3", "level-4", "level-null"]
    heights = sorted(line.label_y for line in chart.lines)
    assert min(np.diff(heights)) >= plots.LINE_HEIGHT - 0.11
    assert heights[-1] <= chart.bottom + 0.11


def test_more_levels_than_colours_begin_again_dashed():
    levels = {str(level): Level(accuracy=0.9, margin=0.2, count=8) for level in (1, 4, 5, 10)}
    run = training([12], levels=lambda _step: levels)
    chart = plots.margin_chart(run)
    assert chart is not None
    assert run.levels == ["1", "4", "5", "10"]
    assert [line.label for line in chart.lines] == ["level 1", "level 4", "level 5", "level 10"]
    assert [line.css for line in chart.lines] == ["level-1", "level-4", "level-1 beyond", "level-2 beyond"]


def test_the_mean_weighs_a_step_by_its_negatives():
    def levels(step):
        return {"1": Level(accuracy=step == 2, margin=0, count=90 if step == 1 else 10)}

    run = training([45], levels=levels)
    assert plots.smoothing_window(run) == 3  # so the first point is the mean of steps 1 and 2
    chart = plots.accuracy_chart(run)
    assert chart is not None
    assert value_at(chart, points(chart.lines[0].path)[0][0][1]) == pytest.approx(10, abs=0.05)


def test_the_description_tells_first_and_last(make_run):
    run = load_run(make_run())
    chart = plots.margin_chart(run)
    assert chart is not None
    assert re.search(r"margin by level over 80 steps: level 1 from 0\.\d+ to 0\.\d+; level 2", chart.alt)


@given(low=finite, high=finite)
def test_ticks_enclose_the_values_in_a_few_even_steps(low, high):
    low, high = min(low, high), max(low, high)
    ticks = nice_ticks(low, high)
    gaps = np.diff(ticks)
    slack = 1e-8 * gaps[0]
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 8
    assert gaps == pytest.approx(gaps[0], rel=1e-2)
    assert len(set(tick_names(ticks))) == len(ticks)


@given(
    values=st.lists(st.one_of(st.floats(-1e3, 1e3), st.just(math.nan)), min_size=1, max_size=30),
    window=st.sampled_from([1, 3, 5, 31]),
)
def test_the_running_mean_is_the_mean_of_the_neighbours(values, window):
    array = np.array(values)
    got = plots.running_mean(array, np.ones(len(values)), window)
    for index, mean in enumerate(got):
        near = array[max(0, index - window // 2) : index + window // 2 + 1]
        near = near[np.isfinite(near)]
        assert math.isnan(mean) if not near.size else mean == pytest.approx(near.mean(), abs=1e-8)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (2e-5, "2·10⁻⁵"),
        (2.74e-6, "2.74·10⁻⁶"),
        (-0.25, "−0.25"),
        (12345.6, "12,346"),
        (0.4306, "0.431"),
        (1.2e6, "1.2 M"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text
