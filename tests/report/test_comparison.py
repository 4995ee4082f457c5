"""The before/after table, the headline, and the heat map of anchor weights."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgh_ds.report.anchors import heat_maps, ratios
from mgh_ds.report.comparison import headline, level_name, level_rows, metric_name, task_rows, wilson_interval
from mgh_ds.report.data import Anchor, load_run


def test_changes_are_in_points(make_run):
    run = load_run(make_run())
    tasks = {row.name: row for row in task_rows(run)}
    assert tasks["HeldOutRetrieval"].points.change == pytest.approx(3.8)
    assert tasks["HeldOutRetrieval"].detail == "nDCG@10"
    assert tasks["HeldOutSTS"].points.change == pytest.approx(-0.7)
    assert [row.name for row in level_rows(run)] == [level_name(level) for level in "1234"]
    assert level_rows(run)[1].points.change == pytest.approx(100 * 8 / 108)


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("ndcg_at_10", "nDCG@10"),
        ("map_at_1000", "MAP@1000"),
        ("cosine_spearman", "Spearman, cosine"),
        ("max_f1", "max f1"),
    ],
)
def test_metrics_are_named_as_papers_do(metric, name):
    assert metric_name(metric) == name


def test_the_headline_is_about_the_hardest_level(make_run):
    found = headline(load_run(make_run()))
    assert found is not None
    assert (found.level, found.count) == ("4", 108)
    assert found.points.change == pytest.approx(100 * 17 / 108)


def test_without_an_evaluation_after_there_is_no_change(make_run):
    run = load_run(make_run("evaluation/after.json"))
    found = headline(run)
    assert found is not None
    assert (found.points.after, found.points.change, found.after_interval) == (None, None, None)
    assert all(row.points.change is None for row in task_rows(run) + level_rows(run))


def test_without_evaluations_there_is_no_headline(make_run):
    run = load_run(make_run("evaluation/before.json", "evaluation/after.json"))
    assert headline(run) is None
    assert task_rows(run) == level_rows(run) == []


@given(count=st.integers(2, 5000), data=st.data())
def test_the_wilson_interval_solves_the_score_equation(count, data):
    """Each end p satisfies |share − p| = 1.96 · sqrt(p(1 − p) / n), which is what defines the interval."""
    share = data.draw(st.integers(0, count)) / count
    interval = wilson_interval(share, count)
    assert interval is not None
    assert interval[0] - 1e-9 <= 100 * share <= interval[1] + 1e-9
    for end in (points / 100 for points in interval):
        standard_error = math.sqrt(max(0.0, end * (1 - end)) / count)
        assert abs(share - end) == pytest.approx(1.96 * standard_error, abs=1e-6)


def test_no_observations_give_no_interval():
    assert wilson_interval(0.5, 0) is None


def anchor(tokens, weights, label="before", text="t"):
    return Anchor(label=label, text=text, tokens=tokens, weights=weights)


def run_with(make_run, anchors):
    run = load_run(make_run())
    run.anchors[:] = anchors
    return run


def test_uniform_weights_have_no_colour_and_masked_tokens_do_not_count(make_run):
    masked = anchor(["[CLS]", "a", "b"], [0.0, 0.5, 0.5])
    assert ratios(masked) == [0.0, 1.0, 1.0]
    [text], _cap = heat_maps(run_with(make_run, [masked]))
    assert text.before is not None
    assert [token.side for token in text.before.tokens] == ["off", "more", "more"]
    assert [token.strength for token in text.before.tokens] == [0.0, 0.0, 0.0]
    assert text.after is None


def test_colours_are_logarithmic_and_symmetric_about_uniform(make_run):
    # Relative to uniform: 2, 1/2 and 1/2; a common scale of 2 puts them at full strength on either side.
    [text], cap = heat_maps(run_with(make_run, [anchor(["a", "b", "c"], [2 / 3, 1 / 6, 1 / 6])]))
    assert text.before is not None
    assert cap == 2
    assert [(token.side, token.strength) for token in text.before.tokens] == [
        ("more", 1.0),
        ("less", 1.0),
        ("less", 1.0),
    ]
    assert text.before.heaviest[0].text == "a"
    assert text.before.heaviest[0].ratio == pytest.approx(2)


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [
        (["glacier", "##s", "melt"], [("glacier", True), ("s", False), ("melt", True)]),
        (["▁glacier", "s", "▁melt"], [("glacier", True), ("s", False), ("melt", True)]),
        (["Ġglacier", "s", "Ġmelt"], [("glacier", True), ("s", False), ("melt", True)]),
        (["▁"], [("·", True)]),
    ],
)
def test_word_pieces_are_joined(make_run, tokens, shown):
    [text], _cap = heat_maps(run_with(make_run, [anchor(tokens, [1 / len(tokens)] * len(tokens))]))
    assert text.before is not None
    assert [(token.text, token.starts_word) for token in text.before.tokens] == shown
