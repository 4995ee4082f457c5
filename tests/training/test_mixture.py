"""A whole run on a mixture: weights, a cap and levels of its sources give the same batches, losses and
trained weights on every number of ranks."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mgh_ds.training.config import RunConfig
from mgh_ds.training.run_folder import RunFolder
from tests.ranks import run_ranks
from tests.records.examples import write_jsonl
from tests.training import run_worker
from tests.training.test_resume import final_weights, ledger

Make = Callable[..., RunConfig]

# Source → how many records it has, and what the recipe says of it. `small` fills one batch, and leaves.
SOURCES: dict[str, tuple[int, dict[str, Any]]] = {
    "graded": (20, {"weight": 2}),
    "small": (8, {"weight": 1, "max_epochs": 1}),
    "mined": (14, {"weight": 1, "ungraded_level": 4}),
    "hard": (16, {"weight": 2, "levels": [3, 4]}),
}
STEPS = 12


def mixture(config: RunConfig, records: Path, folder: Path) -> RunConfig:
    """The config with the sources; all have the same texts, under ids and levels of their own."""
    rows = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    train = []
    for name, (count, said) in SOURCES.items():
        chosen = [row | {"id": f"{name} {row['id']}"} for row in rows if len(row["negatives"]) >= 4][:count]
        assert len(chosen) == count
        if name == "mined":
            chosen = [
                row | {"negatives": [negative | {"level": None} for negative in row["negatives"]]}
                for row in chosen
            ]
        train.append({"path": str(write_jsonl(folder / f"{name}.jsonl", chosen))} | said)
    return RunConfig.model_validate(config.model_dump() | {"data": {"train": train}})


def sources(config: RunConfig) -> list[str]:
    """The source of each step's records; fails if a batch has those of several."""
    found = [{name.split()[0] for name in entry["ids"]} for entry in ledger(config)]
    assert all(len(names) == 1 for names in found), found
    return [names.pop() for names in found]


def steps(config: RunConfig) -> list[dict[str, Any]]:
    return [entry for entry in RunFolder(config.path).metrics.entries() if entry["kind"] == "step"]


def drawn(step: dict[str, Any]) -> dict[str, float]:
    """By level, how many negatives the step's queries brought."""
    return {level: figures["count"] for level, figures in step["levels"].items() if figures["count"]}


def test_a_mixture_trains_the_same_on_every_number_of_ranks(
    tiny_run: Make, short_records: Path, tmp_path: Path
) -> None:
    """With dropout. The tolerances are those of `test_any_number_of_ranks_goes_on`."""
    config = mixture(tiny_run(steps=STEPS, checkpoint_every=STEPS), short_records, tmp_path)
    runs = {count: config.replace(name=f"{count}-ranks") for count in (1, 2, 3)}
    for count, run in runs.items():
        run_ranks(count, run_worker.train, run)
    one = runs[1]
    took = sources(one)
    assert Counter(took) == {"graded": 5, "hard": 4, "mined": 2, "small": 1}, (
        "one epoch of `small` is one batch"
    )
    levels: dict[str, set[int]] = {name: set() for name in SOURCES}
    for entry, source in zip(steps(one), took, strict=True):
        levels[source] |= {int(level) for level in drawn(entry)}
    assert levels == {"graded": {1, 2, 3, 4}, "hard": {3, 4}, "mined": {4}, "small": {1}}
    for run in (runs[2], runs[3]):
        assert ledger(run) == ledger(one)
        for found, expected in zip(steps(run), steps(one), strict=True):
            assert drawn(found) == drawn(expected)
            assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        weights = final_weights(run)
        for name, expected in final_weights(one).items():
            torch.testing.assert_close(weights[name], expected, rtol=1e-3, atol=2e-5)
