"""`mgh_ds.train` whose step lines in metrics.jsonl say when they were written.

    python -P benchmarks/clocked_train.py --config tiny-mistral …

From one moment to the next is a whole turn of the training loop, whatever the line itself counts as its
seconds. Works with the `mgh_ds` that the path finds first: `-P` keeps this folder out of it.
"""

import sys
import time
from typing import Any

from mgh_ds.common.json_lines import JsonLines


def note_moments() -> None:
    """From now on lines of steps have a `moment`: seconds of a clock that only goes forward."""
    append = JsonLines.append

    def noted(lines: JsonLines, entry: dict[str, Any]) -> None:
        clock = {"moment": time.perf_counter()} if entry.get("kind") == "step" else {}
        append(lines, entry | clock)

    JsonLines.append = noted  # type: ignore[method-assign]


if __name__ == "__main__":
    from mgh_ds.train import main

    note_moments()
    main(sys.argv[1:])
