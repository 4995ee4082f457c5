"""Starts real processes that form a process group over gloo, as the launcher would.

The ranks are forked from a server that has imported the heavy libraries once, so a test pays for its work,
not for imports.
"""

import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mgh_ds.training.distributed import free_port

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["deepspeed", "peft", "mgh_ds.training.trainer"])


def run_ranks(
    world_size: int, function: Callable[..., None], *arguments: Any, timeout: float = 200
) -> list[str]:
    """Runs `function(*arguments)` once a rank; returns what each printed (both streams).

    A rank that fails, or a group that outlasts `timeout` seconds, fails the test with every rank's output.
    """
    codes, outputs = start_ranks(world_size, function, *arguments, timeout=timeout)
    assert codes == [0] * world_size, f"exit codes {codes}\n" + "\n".join(outputs)
    return outputs


def start_ranks(
    world_size: int, function: Callable[..., None], *arguments: Any, timeout: float
) -> tuple[list[int | None], list[str]]:
    """Exit codes (None: had to be killed at the time limit) and outputs of all ranks."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"rank-{rank}" for rank in range(world_size)]
        processes = [
            _CONTEXT.Process(target=_rank, args=(rank, world_size, port, logs[rank], function, arguments))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout)
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
        return codes, [log.read_text(errors="replace") if log.exists() else "" for log in logs]


def _rank(
    rank: int,
    world_size: int,
    port: int,
    log: Path,
    function: Callable[..., None],
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
        function(*arguments)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)
