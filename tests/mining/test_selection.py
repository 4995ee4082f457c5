"""Every filter, and both ways to levels."""

from collections import Counter

import numpy as np
import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.mining.selection import Selection, settled_depth, shares

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, -np.inf])
FREE = {"relative_max": None, "negatives": 10}


def places(positive=1.0, scores=SCORES, **options):
    return [one.place for one in Selection(**{**FREE, **options}).choose(scores, positive, Counter())]


def test_without_filters_all_candidates_are_taken_best_first():
    assert places() == [0, 1, 2, 3, 4, 5]
    assert places(negatives=2) == [0, 1]


@pytest.mark.parametrize(
    ("options", "left", "reason"),
    [
        ({"relative_max": 0.75}, [2, 3, 4, 5], "above --relative-max"),
        ({"absolute_margin": 0.35}, [3, 4, 5], "within --absolute-margin"),
        ({"max_score": 0.5}, [4, 5], "above --max-score"),
        ({"rank_min": 3}, [2, 3, 4, 5], "before --rank-min"),
    ],
)
def test_each_filter_leaves_out_what_it_says_and_counts_it(options, left, reason):
    dropped = Counter()
    chosen = Selection(**{**FREE, **options}).choose(SCORES, 1.0, dropped)
    assert [one.place for one in chosen] == left
    assert +dropped == {reason: 6 - len(left)}


def test_filters_are_relative_to_the_positives_own_score():
    assert places(positive=0.8, relative_max=0.75) == [3, 4, 5]  # 0.6 itself stays
    assert places(positive=0.8, absolute_margin=0.35) == [5]
    assert places(positive=0.3, relative_max=1.0) == []


def test_below_zero_the_positive_is_still_above_what_is_left():
    scores = np.array([-0.1, -0.2, -0.25, -0.3])
    assert places(positive=-0.2, scores=scores, relative_max=0.95) == [2, 3]
    assert shares(scores, -0.2).tolist() == pytest.approx([1.5, 1.0, 0.75, 0.5])
    assert shares(np.array([0.1, 0.0, -0.1]), 0.0).tolist() == [np.inf, 1.0, -np.inf]


def test_scores_of_another_judge_order_what_is_taken_and_ranks_stay():
    rescored = np.array([0.1, 0.5, 0.3, -np.inf])
    assert places(scores=rescored) == [1, 2, 0]
    assert places(scores=rescored, rank_min=2, negatives=1) == [1]
    assert places(scores=rescored, rank_min=3) == [2]


def test_bands_grade_by_the_share_of_the_positives_score():
    selection = Selection(**FREE, bands=(0.5, 0.7, 0.9))
    chosen = selection.choose(SCORES, 1.0, Counter())
    assert [(one.place, one.level) for one in chosen] == [(0, 4), (1, 3), (2, 3), (3, 2), (4, 2), (5, 1)]
    assert [one.level for one in selection.choose(SCORES, 0.8, Counter())] == [4, 4, 3, 3, 2, 2]


def test_ranks_grade_by_the_last_rank_of_a_level_and_each_level_has_its_number():
    selection = Selection(relative_max=None, negatives=2, level_ranks=(1, 3, 5))
    chosen = selection.choose(SCORES, 1.0, Counter())
    assert [(one.place, one.level) for one in chosen] == [(0, 4), (1, 3), (2, 3), (3, 2), (4, 2), (5, 1)]
    one = Selection(relative_max=None, negatives=1, level_ranks=(1, 3, 5)).choose(SCORES, 1.0, Counter())
    assert [(one.place, one.level) for one in one] == [(0, 4), (1, 3), (3, 2), (5, 1)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bands": (0.5, 0.7, 0.9), "level_ranks": (1, 2, 3)}, "give one of them"),
        ({"bands": (0.5, 0.7)}, "--bands takes 3 numbers that grow"),
        ({"bands": (0.5, 0.5, 0.9)}, "--bands takes 3 numbers that grow"),
        ({"level_ranks": (3, 2, 1)}, "--level-ranks takes 3 numbers that grow"),
        ({"level_ranks": (0, 2, 3)}, "--level-ranks counts from 1"),
        ({"negatives": 65}, "--negatives is 65; a record may get 1 to 64 in all"),
        ({"negatives": 17, "bands": (0.5, 0.7, 0.9)}, "--negatives is 17 of each level"),
        ({"negatives": 0}, "--negatives is 0"),
        ({"rank_min": 0}, "ranks count from 1"),
        ({"max_score": float("nan")}, "--max-score must be finite, found nan"),
        ({"bands": (0.5, 0.7, float("inf"))}, "--bands must be finite, found inf"),
        (
            {"level_ranks": (5, 20, 50), "rank_min": 30},
            "level 4 at rank 5, and --rank-min 30 leaves out what is before it: none would be of level 4",
        ),
        ({"relative_max": 0.0}, "--relative-max is 0.0; it must be above 0"),
        (
            {"bands": (0.5, 0.7, 0.96)},
            "--bands ends at 0.96, and --relative-max 0.95 leaves out what is above it: none .* of level 4",
        ),
    ],
)
def test_contradictions_are_refused(options, said):
    with pytest.raises(MghError, match=said):
        Selection(**options)


def test_the_depth_is_bounded_by_the_corpus_and_more_than_that_is_refused():
    selection = Selection(negatives=3)
    assert settled_depth(None, selection, 100, "c") == 30
    assert settled_depth(None, selection, 20, "c") == 20
    assert settled_depth(50, selection, 100, "c") == 50
    assert settled_depth(None, Selection(negatives=1, level_ranks=(5, 50, 500)), 10_000, "c") == 501
    with pytest.raises(MghError, match=r"--rank-max asks for 101 documents, but c has 100 distinct texts"):
        settled_depth(101, selection, 100, "c")
    with pytest.raises(MghError, match=r"--negatives asks for 3 documents, but c has 2 distinct texts"):
        settled_depth(None, selection, 2, "c")
    with pytest.raises(MghError, match=r"--rank-max 3 is below --rank-min 5"):
        settled_depth(3, Selection(rank_min=5), 100, "c")


def test_every_level_by_rank_has_a_rank():
    graded = Selection(negatives=1, level_ranks=(3, 10, 40), rank_min=3)
    assert settled_depth(41, graded, 60, "c") == 41
    assert settled_depth(None, graded, 41, "c") == 41
    with pytest.raises(MghError, match=r"level 2 at rank 40, and --rank-max 40 leaves out .* of level 1"):
        settled_depth(40, graded, 60, "c")
    with pytest.raises(MghError, match=r"level 2 at rank 40, and c has 40 distinct texts: .* of level 1"):
        settled_depth(None, graded, 40, "c")
