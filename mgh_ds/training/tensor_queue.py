"""Hands tensors from one thread to another, with a bound on the bytes that are under way."""

import threading
from collections import deque

import torch


class AbandonedError(Exception):
    """The other thread has given up; no more tensors come."""


class TensorQueue:
    """One thread puts, one thread takes, in order.

    Either end may give up: whoever puts is not held any longer then, and whoever takes is told.

    Args:
        bound: bytes under way, the tensor that was taken last among them. A larger tensor passes alone.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._waiting: deque[torch.Tensor] = deque()
        self._taken = 0  # bytes of the tensor that the taker is at
        self._under_way = 0  # bytes of that one and of those that wait
        self._abandoned = False
        self._changed = threading.Condition()

    def put(self, tensor: torch.Tensor) -> None:
        """Waits for room. A queue that was given up takes everything at once, and drops it."""
        with self._changed:
            self._changed.wait_for(lambda: self._abandoned or self._has_room(tensor.nbytes))
            if not self._abandoned:
                self._waiting.append(tensor)
                self._under_way += tensor.nbytes
                self._changed.notify_all()

    def take(self) -> torch.Tensor:
        """The next tensor, when there is one; whoever takes it is done with the one before.

        Raises AbandonedError when the queue was given up.
        """
        with self._changed:
            self._under_way -= self._taken
            self._taken = 0
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._abandoned or self._waiting)
            if self._abandoned:
                raise AbandonedError("its tensors did not come to an end")
            tensor = self._waiting.popleft()
            self._taken = tensor.nbytes
            return tensor

    def abandon(self) -> None:
        """Gives up, from either end."""
        with self._changed:
            self._abandoned = True
            self._waiting.clear()
            self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        return self._under_way == 0 or self._under_way + size <= self.bound
