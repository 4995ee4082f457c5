"""Contenders, each a process of its own, that take turns at the same work, and what came of it between two.

Each does everything anew in each turn, model and files included. They go first by turns; the ratio is taken
round by round, and the first round does not count.
"""

import contextlib
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import environment
from benchmarks.gate import Runner
from mgh_ds.common import files
from mgh_ds.common.errors import MghError

ROOT = Path(__file__).parents[1]
CONTENDERS = ("ours", "theirs")

Turns = dict[str, list[dict[str, Any]]]
"""By contender, what it reported of each turn: `seconds`, `peak_mib`, and what it found."""


def surroundings() -> dict[str, str]:
    """What the figures depend on."""
    theirs = environment.version("sentence-transformers")
    return environment.describe(torch.device("cpu")) | {"sentence-transformers": theirs}


class Comparison(NamedTuple):
    """`ratio` is the median over the rounds of our time divided by theirs, between its quartiles."""

    ours_s: float
    theirs_s: float
    ratio: float
    lower_quartile: float
    upper_quartile: float
    ours_peak_mib: float
    theirs_peak_mib: float

    @property
    def words(self) -> str:
        """The ratio and both peaks, in a line."""
        return (
            f"ours takes {self.ratio:.2f} of their time "
            f"({self.lower_quartile:.2f} to {self.upper_quartile:.2f}); peak memory "
            f"{self.ours_peak_mib:,.0f} MiB against {self.theirs_peak_mib:,.0f} MiB"
        )


def compare(turns: Turns) -> Comparison:
    ours, theirs = ([turn["seconds"] for turn in turns[name][1:]] for name in CONTENDERS)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    lower, median, upper = np.percentile(ratios, (25, 50, 75)).tolist()
    peaks = (turns[name][-1]["peak_mib"] for name in CONTENDERS)
    return Comparison(statistics.median(ours), statistics.median(theirs), median, lower, upper, *peaks)


def take_turns(
    worker: str,
    job: dict[str, Any],
    folder: Path,
    threads: int,
    contenders: Sequence[str] = CONTENDERS,
    settings: Mapping[str, str] | None = None,
) -> Turns:
    """What the module `worker` reports as each of the contenders, `job["rounds"]` times; of the job it knows
    `contender` beside the rest. `settings` are environment variables beside the usual ones. Raises MghError
    with its last words if one fails."""
    usual = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
    usual["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    turns: Turns = {name: [] for name in contenders}
    with (
        tqdm(total=len(contenders) * job["rounds"], unit="turn") as bar,
        contextlib.ExitStack() as stack,
    ):
        runners = {}
        for name in contenders:
            (folder / name).mkdir()
            files.write_json(folder / name / "job.json", {**job, "contender": name})
            command = [sys.executable, "-m", worker, str(folder / name / "job.json")]
            runner = Runner(command, {**os.environ, **usual, **(settings or {})}, folder / name / "log")
            runners[name] = stack.enter_context(runner)
            turns[name].append(_named(name, runner.report))  # alone, until its first turn is done
            bar.update()
        for number in range(1, job["rounds"]):
            for name in contenders if number % 2 else reversed(contenders):
                runners[name].open()
                turns[name].append(_named(name, runners[name].report))
                bar.update()
        for name, runner in runners.items():
            _named(name, runner.finish)
    return turns


def _named(name: str, call: Any) -> Any:
    try:
        return call()
    except RuntimeError as error:
        raise MghError(f"{name} failed:\n{error}") from None
