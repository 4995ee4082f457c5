"""Intervals and rank correlation against numbers worked out by hand and against scipy's own."""

import itertools

import numpy as np
import pytest
from scipy import stats

from mgh_ds.ablation.statistics import agreement, estimate, paired_difference


def test_a_mean_and_its_interval_by_hand() -> None:
    # 1, 2, 6: mean 3, deviations −2, −1, 3, so s² = 14 / 2 = 7; t(2) at 97.5 % is 4.302653.
    found = estimate([1, 2, 6])
    assert (found.mean, found.seeds) == (3, 3)
    assert found.half_width == pytest.approx(4.302653 * (7 / 3) ** 0.5, rel=1e-6)


def test_the_interval_is_scipys() -> None:
    values = [61.2, 60.9, 62.4, 61.1, 60.2]
    found = estimate(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.half_width is not None
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))


def test_one_seed_has_no_interval() -> None:
    found = estimate([4.0])
    assert (found.mean, found.half_width, found.seeds) == (4, None, 1)


def test_differences_are_paired_by_seed() -> None:
    # Seeds 0 and 2 are common: 5 − 4 and 9 − 6, so mean 2, s = √2, t(1) = 12.7062.
    found = paired_difference({0: 5, 1: 100, 2: 9}, {0: 4, 2: 6, 3: -50})
    assert found is not None
    assert (found.mean, found.seeds) == (2, 2)
    assert found.half_width == pytest.approx(12.7062, rel=1e-5)
    assert paired_difference({0: 1}, {1: 1}) is None


def test_agreement_by_hand() -> None:
    # Places 1, 2, 3, 4 and one neighbouring pair exchanged: 5 pairs agree, 1 does not, tau = 4 / 6.
    found = agreement([9, 7, 8, 1], [1, 2, 3, 4])
    assert found is not None
    assert found.tau == pytest.approx(4 / 6)
    # Of the 24 orders of four, 1 has no pair exchanged and 3 have one: 4 as far at least, 4 the other way.
    assert found.p == pytest.approx(8 / 24)
    perfect = agreement([4, 3, 2, 1], [1, 2, 3, 4])
    assert perfect is not None
    assert (perfect.tau, perfect.p) == pytest.approx((1, 2 / 24))


def test_agreement_is_scipys_without_ties() -> None:
    generator = np.random.default_rng(0)
    scores, places = generator.permutation(7), generator.permutation(7)
    found, expected = (
        agreement(scores.tolist(), places.tolist()),
        stats.kendalltau(scores, -places, method="exact"),
    )
    assert found is not None
    assert (found.tau, found.p) == pytest.approx((expected.statistic, expected.pvalue))


def test_agreement_with_the_papers_ties() -> None:
    places = [1, 2, 2, 4, 4, 6, 7]
    scores = [5.0, 3.0, 6.0, 2.0, 4.0, 1.0, 0.5]
    found = agreement(scores, places)
    assert found is not None

    def concordance(order: tuple[float, ...]) -> int:
        pairs = itertools.combinations(range(7), 2)
        return sum(int(np.sign(order[i] - order[j]) * np.sign(places[j] - places[i])) for i, j in pairs)

    observed = concordance(tuple(scores))
    as_far = [order for order in itertools.permutations(scores) if concordance(order) >= observed]
    assert found.p == pytest.approx(2 * len(as_far) / 5040)
    # tau-b: 21 pairs of scores, 19 of places, since two are tied.
    assert found.tau == pytest.approx(observed / (21 * 19) ** 0.5)


@pytest.mark.parametrize(
    ("scores", "places"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2])]
)
def test_there_is_no_agreement_without_order(scores: list[float], places: list[int]) -> None:
    assert agreement(scores, places) is None
