"""What the progress bar says: a step's figures in short, and how long the run still takes."""

import statistics
from collections import deque
from collections.abc import Iterator, Mapping
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
    """A step's line of the metrics as the progress bar shows it: what matters most stands first, since a
    narrow terminal cuts the end off."""
    parts = [stage, f"loss {entry['loss']:.3f}"]
    if seconds_left is not None:
        parts.append(f"{tqdm.format_interval(seconds_left)} left")
    graded = [int(level) for level in entry["levels"] if level != "0"]
    if graded:
        hardest = entry["levels"][str(max(graded))]
        parts.append(f"level {max(graded)} {_percent(hardest['accuracy'])} by {hardest['margin']:+.3f}")
    parts += [*_rates(entry), *_throughput(entry)]
    parts.append(f"{_percent(entry['wait_share'])} waiting")
    parts.append(f"gradient {entry['grad_norm']:.3g}")
    return ", ".join(parts)


def closing_line(summary: Mapping[str, Any]) -> str:
    """What a finished run achieved, out of its `run.json`."""
    rates = ", ".join(_rates(summary))
    parts = [f"{rates} on {summary['world_size']} ranks", *_throughput(summary)]
    if summary["mfu"] is None:
        parts.append("MFU unknown")
    waits = [f"{name} {_percent(share)}" for name, share in summary["wait_shares"].items() if share > 0]
    if waits:
        parts.append(f"waited for {', '.join(waits)}")
    return ", ".join(parts)


def _rates(figures: Mapping[str, Any]) -> list[str]:
    return [f"{figures['texts_per_s']:,.0f} texts/s", f"{figures['tokens_per_s']:,.0f} tokens/s"]


def _throughput(figures: Mapping[str, Any]) -> Iterator[str]:
    """Of what is known, and of padding what there is."""
    if figures["mfu"] is not None:
        yield f"MFU {_percent(figures['mfu'])}"
    for name in ("padding_saved", "padding_spent"):
        if figures[name]:
            yield f"{_percent(figures[name])} {name.replace('_', ' ')}"
    if figures["memory_bytes"] is not None:
        yield f"{figures['memory_bytes'] / 1e9:.1f} GB"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def times_due(step: int, last: int, every: int) -> int:
    """How often what is done every so many steps, and at the last one, is still to be done after `step`."""
    return -(-last // every) - step // every
