"""Starts real processes that form a process group over gloo, as the launcher would.

The ranks are forked from a server that has imported the heavy libraries once, so a test pays for its work,
not for imports.
"""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from mgh_ds.distributed.group import free_port
from tests.forkserver import SERVER


def run_ranks(
    world_size: int, function: Callable[..., int | None], *arguments: Any, timeout: float = 200
) -> list[str]:
    """Runs `function(*arguments)` once a rank; returns what each printed (both streams).

    A rank that fails, or a group that outlasts `timeout` seconds, fails the test with every rank's output.
    """
    codes, outputs = start_ranks(world_size, function, *arguments, timeout=timeout)
    assert codes == [0] * world_size, f"exit codes {codes}\n" + "\n".join(outputs)
    return outputs


def start_ranks(
    world_size: int, function: Callable[..., int | None], *arguments: Any, timeout: float
) -> tuple[list[int | None], list[str]]:
    """Exit codes (None: had to be killed at the time limit) and outputs of all ranks."""
    with Ranks(world_size, function, *arguments) as ranks:
        return ranks.wait(timeout), ranks.outputs()


class Ranks:
    """A group of ranks that the test can send signals to; killed when the block ends.

    A rank's exit code is what `function` returns (None: 0), or 1 if it raises.
    """

    def __init__(self, world_size: int, function: Callable[..., int | None], *arguments: Any) -> None:
        port = free_port()
        self._folder = tempfile.TemporaryDirectory()
        self._logs = [Path(self._folder.name) / f"rank-{rank}" for rank in range(world_size)]
        self.processes = [
            SERVER.Process(target=_rank, args=(rank, world_size, port, self._logs[rank], function, arguments))
            for rank in range(world_size)
        ]

    def __enter__(self) -> Self:
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self._folder.cleanup()

    def send(self, rank: int, number: signal.Signals) -> None:
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def wait(self, timeout: float) -> list[int | None]:
        """Exit codes, negative for a signal; None for a rank that is still there at the end of `timeout`."""
        until = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def wait_for_the_first(self, timeout: float) -> list[int | None]:
        """As a launcher does: when one rank has failed, the others are killed."""
        until = time.monotonic() + timeout
        while time.monotonic() < until and any(process.is_alive() for process in self.processes):
            if any(process.exitcode not in (None, 0) for process in self.processes):
                break
            time.sleep(0.05)
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
            process.join()
        return codes

    def outputs(self) -> list[str]:
        return [log.read_text(errors="replace") if log.exists() else "" for log in self._logs]


def _rank(
    rank: int,
    world_size: int,
    port: int,
    log: Path,
    function: Callable[..., int | None],
    arguments: tuple[Any, ...],
) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        code = function(*arguments) or 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(code)
