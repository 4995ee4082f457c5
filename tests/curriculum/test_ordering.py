"""Order rests on two small functions: a sort by packed keys, and a mix that is the same everywhere."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mgh_ds.curriculum.mixing import mix64
from mgh_ds.curriculum.ordering import order_by
from tests.effort import PLANS

columns = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**40)), max_size=200)


@PLANS
@given(columns)
def test_packed_keys_sort_as_two_keys_do(rows: list[tuple[int, int]]) -> None:
    group, value = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    expected = np.lexsort([np.arange(len(rows)), value, group])
    np.testing.assert_array_equal(order_by(group, value), expected)


@PLANS
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=200))
def test_values_too_wide_to_fit_are_sorted_by_their_highest_bits(values: list[int]) -> None:
    wide = np.array(values, dtype=np.uint64)
    lost = max(0, int(wide.max()).bit_length() - (64 - len(values).bit_length()))
    expected = np.argsort(wide >> np.uint64(lost), kind="stable")
    np.testing.assert_array_equal(order_by(0, wide), expected)


def test_mixing_gives_the_published_values_of_splitmix64() -> None:
    states = np.array([0, 0x9E3779B97F4A7C15], dtype=np.uint64)
    assert mix64(states, 0).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert states.tolist() == [0, 0x9E3779B97F4A7C15], "what is given is left as it was"
