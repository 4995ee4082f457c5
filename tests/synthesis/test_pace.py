"""How fast an endpoint is asked, on a clock that only pauses move."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from mgh_ds.synthesis.engines import pace
from mgh_ds.synthesis.engines.pace import Pace

Call = Callable[[], Awaitable[float]]


class Clock:
    now_s = 1000.0
    slept: list[float]

    def __init__(self) -> None:
        self.slept = []

    async def sleep(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        await asyncio.sleep(0)
        self.now_s = max(self.now_s, until_s)
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "now", lambda: clock.now_s)
    monkeypatch.setattr(pace, "sleep", clock.sleep)
    return clock


async def out_at_once(pace: Pace, calls: int) -> int:
    """How many of `calls` are out when all that may be are."""
    out = most = 0
    done = asyncio.Event()

    async def call() -> None:
        nonlocal out, most
        async with pace.turn():
            out += 1
            most = max(most, out)
            await done.wait()
            out -= 1

    tasks = [asyncio.create_task(call()) for _ in range(calls)]
    for _ in range(20):
        await asyncio.sleep(0)
    found = out
    done.set()
    await asyncio.gather(*tasks)
    assert most == found
    return found


def test_a_pause_that_the_endpoint_asks_for_is_kept_by_every_call(clock: Clock) -> None:
    async def scene() -> None:
        pace = Pace(8)
        async with pace.turn() as began_s:
            assert pace.slow_down(began_s, 200.0) == 200.0
        for _ in range(3):
            async with pace.turn() as began_s:
                assert began_s == 1200.0

    asyncio.run(scene())
    assert clock.slept == [200.0]


def test_pauses_of_no_stated_length_double_until_there_is_an_answer(clock: Clock) -> None:
    async def scene() -> None:
        pace = Pace(1)
        waited = []
        for _ in range(9):
            async with pace.turn() as began_s:
                waited.append(pace.slow_down(began_s, None))
        assert waited == [1, 3, 7, 15, 31, 63, 123, 183, 243]
        async with pace.turn():
            pace.speed_up()
        async with pace.turn() as began_s:
            assert pace.slow_down(began_s, None) == 1

    asyncio.run(scene())
    assert clock.slept == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_calls_sent_together_halve_the_pace_once_and_answers_win_it_back(clock: Clock) -> None:
    async def scene() -> None:
        pace = Pace(8)
        assert await out_at_once(pace, 20) == 8
        began_s = clock.now_s
        for _ in range(7):
            pace.slow_down(began_s, None)
        assert await out_at_once(pace, 20) == 4
        for expected in (2, 1, 1):
            clock.now_s += 1
            pace.slow_down(clock.now_s, None)
            assert await out_at_once(pace, 20) == expected
        answers = 0
        while await out_at_once(pace, 20) < 8:
            pace.speed_up()
            answers += 1
        assert 28 <= answers <= 40
        for _ in range(9):
            pace.speed_up()
        assert await out_at_once(pace, 20) == 8

    asyncio.run(scene())
