"""A clock for machines without a GPU."""

import pytest

from benchmarks.timing import Timing


class CountingClock:
    """Runs every call once; the times it gives are made up: 2 ms."""

    def __init__(self) -> None:
        self.results: list[object] = []

    def time(self, call):
        self.results.append(call())
        return Timing(2.0, 10.0)

    def peak_mib(self, call):
        call()
        return 3.0


@pytest.fixture
def clock() -> CountingClock:
    return CountingClock()
