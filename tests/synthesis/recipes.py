"""Small recipes for tests of the synthesis."""

import functools
from collections.abc import Callable
from pathlib import Path

from mgh_ds.synthesis.plan import SynthesisPlan, freeze_plan
from mgh_ds.synthesis.units import uniform

SMALL = [
    *("--config", "configs/synth-scripted.yaml", "--chunk", "16", "--engine.max_in_flight", "24"),
    *("--tasks.calls", "6", "--tasks.per_call", "5", "--samples.budget.samples", "160"),
    *("--engine.scripted.invalid", "0.1"),
]


def small_plan(folder: Path, *overrides: str) -> SynthesisPlan:
    """160 accepted samples in 4 shards, in chunks of 16, with a tenth of the answers bad."""
    return freeze_plan([*SMALL, *overrides], folder)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def at(key: str) -> Callable[[str], float]:
    """A position for every slot, each drawn by itself."""
    return functools.partial(uniform, key)
