"""A worker that kills itself with SIGKILL at its n-th step of writing: before, half through, or after it."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mgh_ds.synthesis import journal, parts, shard_run
from mgh_ds.synthesis.plan import open_plan
from mgh_ds.synthesis.progress import WorkerProgress
from mgh_ds.synthesis.worker import run


class Silent(WorkerProgress):
    """Shows nothing, writes nothing."""

    def show(self, reached: int) -> None:
        pass

    def log(self, text: str) -> None:
        pass


def work(folder: Path, shards: list[int], kill_at: int | None = None) -> None:
    """Works through the shards; `kill_at` counts the steps of writing until this process kills itself."""
    if kill_at is not None:
        _sabotage(kill_at)
    plan = open_plan(folder)
    run(plan, shards, Silent(plan))


def _sabotage(kill_at: int) -> None:
    steps = 0

    def due() -> bool:
        nonlocal steps
        steps += 1
        return steps == kill_at

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def around(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if due():
                die()
            result = call(*arguments, **options)
            if due():
                die()
            return result

        return wrapped

    encode = journal._encode

    append = journal.Journal.append

    def append_torn(self: journal.Journal, entries: list[dict[str, Any]]) -> None:
        if due():
            data = b"".join(encode(entry) for entry in entries)
            self._file.write(data[: 1 + kill_at * 7919 % len(data)])
            die()
        append(self, entries)

    journal.Journal.append = append_torn  # type: ignore[method-assign]
    parts.link_new = around(parts.link_new)
    parts.pq.write_table = around(parts.pq.write_table)
    shard_run.ShardRun._remove_journals = around(shard_run.ShardRun._remove_journals)  # type: ignore[method-assign]
