"""What the progress bar says: a step's figures in short, and how long the run still takes."""

import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

RECENT = 50  # steps, and checkpoints, whose mean is the pace from now on


class TimeLeft:
    """How long a run still takes, by how long its parts have taken of late."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=RECENT)
        self._copies: deque[float] = deque(maxlen=RECENT)

    def step(self, seconds: float) -> None:
        """Notes how long a step took."""
        self._steps.append(seconds)

    def copy(self, seconds: float) -> None:
        """Notes how long training stood still for a checkpoint."""
        self._copies.append(seconds)

    def seconds(
        self, *, steps: int, checkpoints: int, evaluations: int = 0, evaluation_seconds: float | None = None
    ) -> float | None:
        """Of so many steps, checkpoints and evaluations that are still to come, the latter by the mean
        seconds of one. None while no step was taken; what was not seen yet counts as nothing."""
        if not self._steps:
            return None
        left = steps * statistics.fmean(self._steps) + evaluations * (evaluation_seconds or 0.0)
        return left + (checkpoints * statistics.fmean(self._copies) if self._copies else 0.0)


def progress(stage: str, entry: Mapping[str, Any], seconds_left: float | None) -> str:
    """A step's line of the metrics as the progress bar shows it."""
    parts = [stage, f"loss {entry['loss']:.3f}"]
    graded = [int(level) for level in entry["levels"] if level != "0"]
    if graded:
        hardest = max(graded)
        parts.append(f"level {hardest} {100 * entry['levels'][str(hardest)]['accuracy']:.0f} %")
    parts.append(f"{entry['tokens_per_s']:,.0f} tokens/s")
    if entry["mfu"] is not None:
        parts.append(f"MFU {100 * entry['mfu']:.0f} %")
    if seconds_left is not None:
        parts.append(f"{tqdm.format_interval(seconds_left)} left")
    return ", ".join(parts)


def closing_line(summary: Mapping[str, Any]) -> str:
    """What a finished run achieved, out of its `run.json`."""
    parts = [
        f"{summary['texts_per_s']:,.0f} texts/s",
        f"{summary['tokens_per_s']:,.0f} tokens/s on {summary['world_size']} ranks",
    ]
    parts.append("MFU unknown" if summary["mfu"] is None else f"MFU {100 * summary['mfu']:.0f} %")
    if summary["padding_saved"]:
        parts.append(f"{100 * summary['padding_saved']:.0f} % padding saved")
    if summary["memory_bytes"] is not None:
        parts.append(f"{summary['memory_bytes'] / 1e9:.1f} GB")
    if summary["wait_share"] is not None:
        parts.append(f"{100 * summary['wait_share']:.0f} % waiting")
    return ", ".join(parts)


def times_due(step: int, last: int, every: int) -> int:
    """How often what is done every so many steps, and at the last one, is still to be done after `step`."""
    return -(-last // every) - step // every
