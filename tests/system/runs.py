"""One small training run that is started in several ways, and what two such runs must have in common."""

import json
from pathlib import Path
from typing import Any

CONFIG = "configs/tiny-mistral.yaml"
STEPS = 40  # enough to be interrupted in the middle, and a few seconds of work
SETTINGS = (
    *("--data.held_out", "null", "--model.use_instructions", "false", "--model.max_length", "32"),
    *("--training.steps", str(STEPS), "--training.global_batch", "8", "--training.micro_batch", "4"),
    *("--training.checkpoint_every", "10"),
)


def run_in(folder: Path) -> Path:
    """The run's own folder where `--folder FOLDER` was said."""
    return folder / "tiny-mistral"


def steps(run: Path) -> list[dict[str, Any]]:
    """The steps as logged, without what depends on the clock."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    kept = ("step", "stage_name", "loss", "records", "levels", "lr", "grad_norm")
    return [{key: entry[key] for key in kept} for entry in entries if entry["kind"] == "step"]


def checkpoints(run: Path) -> list[Path]:
    """The complete ones."""
    return sorted((run / "checkpoints").glob("step-*"))


def assert_same(run: Path, reference: Path) -> None:
    """The same records in the same order, the same losses and the same model, bit for bit."""
    assert [entry["step"] for entry in steps(run)] == list(range(1, STEPS + 1))
    assert steps(run) == steps(reference)
    for name in ("ledger.jsonl", "export/model.safetensors"):
        assert (run / name).read_bytes() == (reference / name).read_bytes(), name
    assert json.loads((run / "run.json").read_text())["world_size"] == 2
