"""Processes that are given up."""

import os
import time

import pytest

from benchmarks.apart import Apart


def work(what):
    """In the process: says which it is, then does as asked."""
    yield os.getpid()
    match what:
        case "hang":
            time.sleep(1000)
        case "raise":
            raise ValueError("of\nno use")
        case "die":
            os._exit(7)
    yield "end"


def test_what_hangs_fails_or_dies_costs_its_process_and_nothing_else():
    """What was yielded before is kept, and the next argument is met by another process."""
    there = Apart(work)
    first, end = there("well", 120)
    assert end == "end"
    assert first != os.getpid()
    pids = [first]
    for what, limit_s, error, message in (
        ("hang", 1.0, TimeoutError, "stopped after 1 s"),
        ("raise", 120, RuntimeError, "^ValueError: of$"),
        ("die", 120, RuntimeError, "its process ended with exit code 7"),
    ):
        found = there(what, limit_s)
        assert next(found) == pids[-1], "one process, as long as nothing goes wrong"
        with pytest.raises(error, match=message):
            next(found)
        pid, _ = there("well", 120)
        pids.append(pid)
    there.close()
    assert len(set(pids)) == 4
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
