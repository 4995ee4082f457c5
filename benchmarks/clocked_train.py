"""`mgh_ds.train` whose step lines in metrics.jsonl say when they were written.

    python -P benchmarks/clocked_train.py --config tiny-mistral …

From one moment to the next is a whole turn of the training loop, whatever the line itself counts as its
seconds. Works with the `mgh_ds` that the path finds first: `-P` keeps this folder out of it.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from mgh_ds.common.json_lines import JsonLines


def watch_steps(call: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """From now on `call` sees each step's line before it is written, and adds to it what it returns."""
    append = JsonLines.append

    def watched(lines: JsonLines, entry: dict[str, Any]) -> None:
        append(lines, entry | call(entry) if entry.get("kind") == "step" else entry)

    JsonLines.append = watched  # type: ignore[method-assign, assignment]


def moment(_: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a clock that only goes forward."""
    return {"moment": time.perf_counter()}


if __name__ == "__main__":
    from mgh_ds.train import main

    watch_steps(moment)
    main(sys.argv[1:])
