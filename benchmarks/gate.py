"""Processes that take turns, a step at a time: the gate that each stands at, and who opens it.

Only the standard library: the processes may belong to different environments.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TextIO


class Gate:
    """In the process: reports each step, and holds it until its next turn."""

    def __init__(self, descriptor: int, steps: int) -> None:
        """Reports go to the file `descriptor`; after `steps` of them nothing waits any more."""
        self._reports: TextIO = os.fdopen(descriptor, "w", encoding="utf-8")
        self._left = steps
        self._opened = time.perf_counter()

    def stop(self, report: Mapping[str, Any]) -> None:
        """A step is done: what is to be said of it, and `seconds` since the gate opened."""
        seconds = time.perf_counter() - self._opened
        print(json.dumps({**report, "seconds": seconds}), file=self._reports, flush=True)
        self._left -= 1
        if self._left and not sys.stdin.readline():
            sys.exit("nobody opens the gate any more")
        self._opened = time.perf_counter()


def take_part(
    job_file: str, descriptor: str, contenders: Mapping[str, Callable[[dict[str, Any], Path], Any]], what: str
) -> None:
    """In the process of one of two that do the same job: does it anew in each turn as the contender that the
    job names, and reports what that found under the name `what`, beside the peak of resident memory."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    gate = Gate(int(descriptor), job["rounds"])
    for _ in range(job["rounds"]):
        found = contenders[job["contender"]](job, Path(job_file).parent)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        gate.stop({"peak_mib": peak, what: found})


class Runner:
    """Of the other side: a process that has a gate. Killed at the end of the block, if it is still there."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """`command` gets the gate's descriptor as its last word; what it prints goes to `log`."""
        self._log = log
        self._stack = contextlib.ExitStack()
        reader, writer = os.pipe()
        self._reports = self._stack.enter_context(os.fdopen(reader, encoding="utf-8"))
        output = self._stack.enter_context(log.open("w", encoding="utf-8"))
        self._process = subprocess.Popen(
            [*command, str(writer)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            text=True,
            pass_fds=[writer],
        )
        os.close(writer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._stack.close()

    def open(self) -> None:
        """Lets it take another step."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: the missing report says so
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def report(self) -> dict[str, Any]:
        """What it says of its step, when that is done. Raises RuntimeError with its last words if it has
        ended."""
        line = self._reports.readline()
        if not line:
            raise RuntimeError(self._last_words())
        return json.loads(line)

    def finish(self) -> None:
        """Waits for its end. Raises RuntimeError with its last words if it failed."""
        if self._process.wait():
            raise RuntimeError(self._last_words())

    def _last_words(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-3000:]
