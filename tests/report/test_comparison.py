"""The before/after table, the headline, and the heat map of token weights."""

import pytest

from mgh_ds.report.comparison import headline, interval, level_rows, task_rows
from mgh_ds.report.data import Level, WeightedText, load_run
from mgh_ds.report.levels import easiest_first, hardest, level_title
from mgh_ds.report.token_weights import heat_maps, ratios


def test_changes_are_in_points(make_run):
    run = load_run(make_run())
    tasks = {row.name: row for row in task_rows(run)}
    assert tasks["HeldOutRetrieval"].points.change == pytest.approx(3.8)
    assert tasks["HeldOutRetrieval"].detail == "nDCG@10"
    assert tasks["HeldOutSTS"].points.change == pytest.approx(-0.7)
    assert [row.name for row in level_rows(run)] == [
        "level 1 · easy",
        "level 2 · medium",
        "level 3 · medium",
        "level 4 · hard",
    ]
    assert level_rows(run)[1].points.change == pytest.approx(100 * 8 / 108)


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


def test_no_observations_give_no_interval():
    assert interval(Level(accuracy=0.5, count=0)) is None
    assert interval(Level(accuracy=None, count=5)) is None


def test_levels_are_as_many_as_the_files_have():
    levels = ["10", "null", "2", "1", "odd", "9"]
    assert easiest_first(levels) == ["1", "2", "9", "10", "null", "odd"]
    assert hardest(levels) == "10"
    assert hardest(["null"]) is None
    assert [level_title(level, levels) for level in ("1", "9", "10", "null")] == [
        "level 1 · easy",
        "level 9 · medium",
        "level 10 · hard",
        "ungraded",
    ]


def weighted(tokens, weights, label="before", text="t"):
    return WeightedText(label=label, text=text, tokens=tokens, weights=weights)


def run_with(make_run, weighted):
    run = load_run(make_run())
    run.weighted_texts[:] = weighted
    return run


def test_uniform_weights_have_no_colour_and_masked_tokens_do_not_count(make_run):
    masked = weighted(["[CLS]", "a", "b"], [0.0, 0.5, 0.5])
    assert ratios(masked) == [0.0, 1.0, 1.0]
    [text], _cap = heat_maps(run_with(make_run, [masked]))
    assert text.before is not None
    assert [token.side for token in text.before.tokens] == ["off", "more", "more"]
    assert [token.strength for token in text.before.tokens] == [0.0, 0.0, 0.0]
    assert text.after is None


def test_colours_are_logarithmic_and_symmetric_about_uniform(make_run):
    # Relative to uniform: 2, 1/2 and 1/2; a common scale of 2 puts them at full strength on either side.
    [text], cap = heat_maps(run_with(make_run, [weighted(["a", "b", "c"], [2 / 3, 1 / 6, 1 / 6])]))
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
    [text], _cap = heat_maps(run_with(make_run, [weighted(tokens, [1 / len(tokens)] * len(tokens))]))
    assert text.before is not None
    assert [(token.text, token.starts_word) for token in text.before.tokens] == shown
