"""A bound on bytes that holds back the fast end, and lets nobody wait for an end that is gone."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from mgh_ds.training.tensor_queue import AbandonedError, TensorQueue

PATIENCE_S = 10


def tensor(size: int) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.uint8)


class Putter(threading.Thread):
    """Puts tensors of these sizes, and counts those that it got rid of."""

    def __init__(self, queue: TensorQueue, sizes: list[int]) -> None:
        super().__init__(daemon=True)
        self.queue, self.sizes, self.done = queue, sizes, 0
        self.start()

    def run(self) -> None:
        for size in self.sizes:
            self.queue.put(tensor(size))
            self.done += 1

    def has_put(self, count: int) -> bool:
        """Whether so many are put, and no more although there is time to."""
        until = time.monotonic() + PATIENCE_S
        while self.done < count and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.05)
        return self.done == count


def test_everything_comes_through_in_order() -> None:
    queue = TensorQueue(bound=10)
    putter = Putter(queue, [3, 9, 10, 0, 1])
    assert [queue.take().nbytes for _ in range(5)] == [3, 9, 10, 0, 1]
    putter.join(PATIENCE_S)


def test_a_slow_taker_holds_the_putter_back_by_bytes() -> None:
    queue = TensorQueue(bound=10)
    putter = Putter(queue, [4, 4, 2, 4, 4])
    assert putter.has_put(3)
    queue.take()
    assert putter.has_put(3), "what is being written counts"
    queue.take()
    assert putter.has_put(4)
    for _ in range(3):
        queue.take()
    assert putter.has_put(5)


def test_a_tensor_beyond_the_bound_passes_alone() -> None:
    queue = TensorQueue(bound=10)
    putter = Putter(queue, [1, 50, 1])
    assert putter.has_put(1)
    assert queue.take().nbytes == 1
    assert putter.has_put(1)
    taken: list[int] = []
    taker = threading.Thread(target=lambda: taken.extend(queue.take().nbytes for _ in range(2)), daemon=True)
    taker.start()
    taker.join(PATIENCE_S)
    assert taken == [50, 1]


@pytest.fixture
def full() -> Iterator[tuple[TensorQueue, Putter]]:
    queue = TensorQueue(bound=10)
    yield queue, Putter(queue, [10] * 100)
    queue.abandon()


def test_a_taker_that_gives_up_sets_the_putter_free(full: tuple[TensorQueue, Putter]) -> None:
    queue, putter = full
    assert putter.has_put(1)
    queue.abandon()
    putter.join(PATIENCE_S)
    assert putter.done == 100
    with pytest.raises(AbandonedError):
        queue.take()


def test_a_putter_that_gives_up_is_told_to_the_taker() -> None:
    queue = TensorQueue(bound=10)
    told = threading.Event()

    def take() -> None:
        with pytest.raises(AbandonedError, match="did not come to an end"):
            queue.take()
        told.set()

    taker = threading.Thread(target=take, daemon=True)
    taker.start()
    time.sleep(0.02)  # it waits by now
    queue.abandon()
    assert told.wait(PATIENCE_S)
