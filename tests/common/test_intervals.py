"""The score interval of a share."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from mgh_ds.common.intervals import Z, wilson


def test_z_is_that_of_95_percent():
    assert pytest.approx(norm.ppf(0.975), abs=1e-15) == Z


@given(count=st.integers(2, 5000), data=st.data())
def test_the_wilson_interval_solves_the_score_equation(count, data):
    """Each end p satisfies |share − p| = Z · sqrt(p(1 − p) / n), which is what defines the interval."""
    share = data.draw(st.integers(0, count)) / count
    interval = wilson(share, count)
    assert interval[0] - 1e-9 <= share <= interval[1] + 1e-9
    for end in interval:
        standard_error = math.sqrt(max(0.0, end * (1 - end)) / count)
        assert abs(share - end) == pytest.approx(Z * standard_error, abs=1e-6)


@settings(deadline=None)
@given(count=st.integers(1, 5000), data=st.data())
def test_scipy_says_the_same(count, data):
    hits = data.draw(st.integers(0, count))
    expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)
