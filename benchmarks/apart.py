"""A function called in a process of its own, one argument after another, each for as long as it may take.

What hangs there is stopped, and what loses its device there has not lost it here: the next argument meets a
new process.
"""

import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

# A process that was killed may still have to wait for its device.
FAREWELL_S = 10.0


class Apart:
    """Calls `function`, which must be one of a module, with what can be pickled."""

    def __init__(self, function: Callable[[Any], Iterable[Any]]) -> None:
        self._function = function
        self._process: Any = None
        self._connection: Connection | None = None

    def __call__(self, argument: Any, limit_s: float) -> Iterator[Any]:
        """What `function(argument)` yields, each as soon as it is yielded.

        Raises TimeoutError if that takes more than `limit_s` seconds, the start of a process included, and
        RuntimeError, with the reason, if it fails or its process ends. The process is gone then.
        """
        until = time.monotonic() + limit_s
        complete = False
        try:
            connection = self._connection or self._start()
            connection.send(argument)
            while connection.poll(max(0.0, until - time.monotonic())):
                kind, value = connection.recv()
                if kind == "failed":
                    raise RuntimeError(value)
                if kind == "done":
                    complete = True
                    return
                yield value
            raise TimeoutError(f"stopped after {limit_s:.0f} s")
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._process.join(FAREWELL_S)
            code = self._process.exitcode  # None while it runs
            how = (
                f"hung up and runs after {FAREWELL_S:.0f} s"
                if code is None
                else f"ended with exit code {code}"
            )
            raise RuntimeError(f"its process {how}") from error
        finally:
            if not complete:
                self.close()

    def close(self) -> None:
        """Ends the process, whatever it is at."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if process is not None:
            process.kill()
            process.join(FAREWELL_S)
        if connection is not None:
            connection.close()

    def _start(self) -> Connection:
        # Never a fork: CUDA does not survive it.
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._function, theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is seen here
        return self._connection


def one_line(error: BaseException) -> str:
    """The error's kind and its first line, which names the reason; the rest is often a trace."""
    text = " ".join(str(error).split("\n", 1)[0].split())
    return f"{type(error).__name__}: {text[:200]}"


def _serve(function: Callable[[Any], Iterable[Any]], connection: Connection) -> None:
    while True:
        try:
            argument = connection.recv()
        except EOFError:
            return
        try:
            for item in function(argument):
                connection.send(("item", item))
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            connection.send(("failed", one_line(error)))
            return  # whatever this process has, such as a device, is suspect
        connection.send(("done", None))
