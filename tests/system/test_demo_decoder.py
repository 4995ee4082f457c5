"""Both halves of `make demo-decoder` as its recipes say, but for two layers and a few steps: the real decoder
learns masked prediction, and on top of that from graded records."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mgh_ds.common import files
from mgh_ds.model.encoder import Encoder
from mgh_ds.training import checkpoint
from tests.system.smollm2 import NEEDED

pytestmark = NEEDED
SHORT = ("--model.num_layers", "2", "--model.dtype", "float32", "--training.warmup_steps", "1")


def train(folder: Path, config: str, *settings: str) -> list[dict]:
    """The steps of a run of one rank."""
    command = [sys.executable, "-m", "mgh_ds.train", "--config", config, "--folder", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [*command, *SHORT, *settings],
        env=environment,
        text=True,
        capture_output=True,
        timeout=400,
        check=False,
    )
    assert finished.returncode == 0, (finished.stdout + finished.stderr)[-3000:]
    lines = (folder / config / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == "step"]


@pytest.mark.timeout(900)
def test_masked_prediction_then_contrastive_training_of_the_real_decoder(tmp_path: Path) -> None:
    short = ["--training.steps", "4", "--training.checkpoint_every", "4", "--data.held_out", "null"]
    masked = train(tmp_path, "demo-decoder-mntp", *short, "--evaluation.tasks", "[]")
    assert all(0.1 < step["statistics"]["masked_share"] < 0.3 for step in masked), (
        "a fifth, of at least one token a text"
    )
    below = f"[{tmp_path / 'demo-decoder-mntp'}]"
    steps = train(
        tmp_path,
        "demo-decoder",
        "--training.steps",
        "3",
        "--evaluation.tasks",
        "[]",
        "--model.adapters",
        below,
    )
    assert [step["stage_name"] for step in steps] == ["level 1", "levels 2, 3", "level 4"]

    run = tmp_path / "demo-decoder"
    newest, _ = checkpoint.newest(run / "checkpoints")
    fingerprint = files.read_json(newest / "manifest.json")["identity"][checkpoint.BACKBONE]
    assert "adapter-1" in fingerprint, "what was merged is part of the run's identity"
    for label in ("before", "after"):
        assert files.read_json(run / "evaluation" / f"{label}.json")["levels"]["4"]["count"] == 132
    assert (run / "report.html").is_file()
    encoder = Encoder.from_pretrained(run / "export")
    assert encoder.model.backbone.config.is_causal is False
    assert encoder.encode(["How do I true a wheel?"]).shape == (1, 576)
