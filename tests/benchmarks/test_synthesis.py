"""The synthesis benchmark: it runs, counts what it says, and states ratios as they are."""

import subprocess
import sys

import pytest

from benchmarks import synthesis, synthesis_vllm, table
from benchmarks.synthesis_vllm import Turn
from mgh_ds.common.config import load_config
from mgh_ds.synthesis.config import SynthesisConfig


def test_every_unit_is_made_and_merged_and_every_step_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(synthesis, "TASK_CALLS", 8)
    output = tmp_path / "results"
    words = ["overhead", "--units", "300", "--folder", str(tmp_path), "--output", str(output)]
    assert synthesis.main(words) == 0
    described, rows = table.read(output / "synthesis-overhead.csv")
    assert {"device", "load", "pyarrow"} <= described.keys()
    found = {row["what"]: row for row in rows}
    steps = [
        f"stage {stage}: {step}"
        for stage in ("tasks", "samples")
        for step in ("prompts", "script", "answers")
    ]
    assert list(found) == ["mgh-ds synth run", "mgh-ds synth merge", "both", *steps]
    assert {name: row["units"] for name, row in found.items()} == {
        name: "8" if name.startswith("stage tasks") else "300" for name in found
    }
    assert float(found["mgh-ds synth run"]["peak_mib"]) > 20
    assert "| mgh-ds synth merge | 300 |" in (output / "synthesis-overhead.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["results"], "plans are gone"


def test_a_command_that_fails_is_no_measurement():
    with pytest.raises(subprocess.CalledProcessError):
        synthesis.watch([sys.executable, "-c", "raise SystemExit(1)"])


def test_the_ratio_to_vllm_is_formed_round_by_round():
    rates = {(0, "bare"): 100.0, (0, "pipeline"): 90.0, (1, "pipeline"): 198.0, (1, "bare"): 200.0}
    turns = [Turn(number, side, 5, 1000, 1000 / rate, rate) for (number, side), rate in rates.items()]
    assert "**median 0.945, range 0.900 to 0.990**" in synthesis_vllm.describe(turns)


def test_the_recipe_for_vllm_takes_what_differs(monkeypatch):
    monkeypatch.setattr(synthesis_vllm, "resolve_model", lambda name: name)
    config = load_config(SynthesisConfig, synthesis_vllm.arguments(7))
    assert (config.engine.model, config.shards, config.samples.max_rounds) == (synthesis_vllm.MODEL, 1, 1)
    assert config.samples.budget.samples == 7
