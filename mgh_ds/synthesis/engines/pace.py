"""How fast an endpoint is asked: no more calls at once than it bears, and none while it asks to wait."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # where the endpoint does not say how long

now = time.monotonic
sleep = asyncio.sleep


class Pace:
    """At most `most` calls at once, half as many after each "too many requests", and more again with the
    answers. Used within one event loop."""

    def __init__(self, most: int) -> None:
        self._most, self._limit = most, float(most)
        self._out = 0
        self._freed = asyncio.Condition()
        self._not_before_s = self._slowed_at_s = -1.0
        self._slow_since_s: float | None = None  # since when nothing was answered
        self._pause_s = FIRST_PAUSE_S

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """One call's turn, once there is room and no pause. Yields when it began."""
        async with self._freed:
            await self._freed.wait_for(lambda: self._out < int(self._limit))
            self._out += 1
        try:
            while (left_s := self._not_before_s - now()) > 0:
                await sleep(left_s)
            yield now()
        finally:
            async with self._freed:
                self._out -= 1
                self._freed.notify(2)  # the limit may have grown by one as well

    def speed_up(self) -> None:
        """Notes an answer."""
        self._slow_since_s, self._pause_s = None, FIRST_PAUSE_S
        self._limit = min(float(self._most), self._limit + 1 / self._limit)

    def slow_down(self, began_s: float, asked_s: float | None) -> float:
        """Notes "too many requests" for a call that began at `began_s`; `asked_s` is how long the endpoint
        asks to wait. Returns for how many seconds nothing will have been answered when the pause ends."""
        at_s = now()
        self._slow_since_s = at_s if self._slow_since_s is None else self._slow_since_s
        pause_s = asked_s or 0.0
        if began_s > self._slowed_at_s:  # of those sent together one stands for all
            self._slowed_at_s = at_s
            self._limit = max(1.0, self._limit / 2)
            pause_s = pause_s or self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._not_before_s = max(self._not_before_s, at_s + pause_s)
        return self._not_before_s - self._slow_since_s
