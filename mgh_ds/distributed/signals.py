"""Asked to stop: the signals by which schedulers and people say so."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

# SLURM sends SIGTERM at preemption and whatever `--signal` names before the time limit; people press Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class StopRequest:
    """While the block lasts, signals are remembered instead of ending the process.

    They reach the ranks one after another, or only some of them, so `asked` is one rank's view: the trainer
    makes it everyone's once a step. A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.asked:
            raise KeyboardInterrupt
        self.asked = True
