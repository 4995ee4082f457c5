"""The evaluations' curves: a dot for each that did not fail, where its figure says, and the best marked."""

import dataclasses
from pathlib import Path

import pytest

from mgh_ds.report import curves
from mgh_ds.report.data import load_run
from mgh_ds.report.page import render


def test_every_evaluation_is_a_dot_of_its_curve(evaluated_run: Path) -> None:
    (title, scores), (_, levels) = curves.charts(load_run(evaluated_run))
    assert title == "Main scores"
    assert [line.label for line in scores.lines] == ["SciFact", "HeldOutRetrieval"][::-1]
    assert sorted(line.label for line in levels.lines) == [f"level {level}" for level in (1, 2, 3, 4)]
    for line in (*scores.lines, *levels.lines):
        assert len(line.dots) == 4
        across = [x for x, _ in line.dots]
        assert across == sorted(across)
        assert (across[2] - across[0]) / (across[3] - across[0]) == pytest.approx(60 / 80, abs=1e-3)
    retrieval = scores.lines[0].dots
    heights = [retrieval[0][1] - y for _, y in retrieval]
    assert [height / heights[2] for height in heights] == pytest.approx([0, 5 / 17.5, 1, 15 / 17.5], abs=2e-3)
    assert "HeldOutRetrieval from 70 to 85" in scores.alt


def test_the_best_step_is_marked(evaluated_run: Path) -> None:
    run = load_run(evaluated_run)
    best = curves.best(run)
    assert best is not None
    assert best.step == 60
    for _, chart in curves.charts(run):
        (band,) = chart.bands
        assert band.title == "best by SciFact: step 60, 62.5"
        assert band.x + band.width / 2 == pytest.approx(chart.lines[0].dots[2][0], abs=0.1)
    page = render(run)
    assert "Best by SciFact: step 60, with 62.50." in page
    assert "The evaluation after step 40 failed: rank 1: the ink has dried up" in page


def test_before_and_after_alone_make_no_curve(evaluated_run: Path) -> None:
    run = load_run(evaluated_run)
    few = dataclasses.replace(run, evaluations=[run.evaluations[0], run.evaluations[-1]])
    assert curves.charts(few) == []
    assert "Evaluations over the steps" not in render(few)
    assert "Evaluations over the steps" in render(run)


def test_without_a_metric_nothing_is_best(evaluated_run: Path) -> None:
    run = load_run(evaluated_run)
    plain = [each.model_copy(update={"metric": None, "value": float("nan")}) for each in run.evaluations]
    without = dataclasses.replace(run, evaluations=plain)
    assert curves.best(without) is None
    assert all(not chart.bands for _, chart in curves.charts(without))
    assert "Best by" not in render(without)
