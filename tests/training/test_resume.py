"""Killed and resumed equals never killed, bit for bit; what does not belong together is refused; nothing
half-written counts."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mgh_ds.training import checkpoint
from mgh_ds.training.config import RunConfig
from tests.ranks import run_ranks, start_ranks
from tests.training import run_worker

Make = Callable[..., RunConfig]
STEPS = 6


def final_weights(config: RunConfig) -> dict[str, torch.Tensor]:
    return load_file(config.path / "checkpoints" / f"step-{STEPS:06d}" / checkpoint.WEIGHTS)


def losses(config: RunConfig) -> list[tuple[int, float]]:
    lines = map(json.loads, (config.path / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == "step"]


def test_killed_and_resumed_equals_never_killed(tiny_run: Make) -> None:
    """With dropout, across a stage boundary, killed off a checkpoint so that one step is trained again."""
    whole = dataclasses.replace(tiny_run(), name="whole")
    killed = dataclasses.replace(tiny_run(), name="killed")
    run_ranks(2, run_worker.train, whole)
    codes, outputs = start_ranks(2, run_worker.train, killed, 3, timeout=100)
    assert codes[1] == -9, outputs
    assert [path.name for path in (killed.path / "checkpoints").iterdir()] == ["step-000002"]

    outputs = run_ranks(2, run_worker.train, killed)
    assert "2 of 6 steps are done" in outputs[0]
    expected, found = final_weights(whole), final_weights(killed)
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        assert torch.equal(weights, found[name]), name
    assert any(weights.abs().sum() > 0 for name, weights in expected.items() if "lora_B" in name), (
        "it did train"
    )
    assert losses(killed) == losses(whole)
    assert [step for step, _ in losses(killed)] == list(range(1, STEPS + 1))


def test_what_does_not_belong_together_is_refused(tiny_run: Make, tmp_path: Path) -> None:
    config = tiny_run(steps=3, checkpoint_every=3)
    run_ranks(1, run_worker.train, config)

    def refusal(changed: RunConfig, world_size: int = 1) -> str:
        return run_ranks(world_size, run_worker.train_expecting_error, changed)[0]

    training = dataclasses.replace(config.training, learning_rate=2e-3)
    assert "config.training.learning_rate: 0.001 → 0.002" in refusal(
        dataclasses.replace(config, training=training)
    )
    assert "written by 1 ranks, and 2 were started" in refusal(config, world_size=2)
    other = tmp_path / "other.jsonl"
    other.write_text(Path(config.data.train[0]).read_text().replace("the", "a", 1))
    data = dataclasses.replace(config.data, train=[str(other)])
    assert "config.data.manifest" in refusal(dataclasses.replace(config, data=data))
    scored = dataclasses.replace(config.data, held_out=str(other))
    assert "config.data.held_out: None" in refusal(dataclasses.replace(config, data=scored))
    assert (config.path / "checkpoints" / "step-000003" / "manifest.json").exists(), (
        "the checkpoint is untouched"
    )
    assert "learning_rate: 0.001\n" in (config.path / "config.yaml").read_text(), "and so is the recipe"


def test_a_full_disk_stops_every_rank_and_spoils_nothing(tiny_run: Make) -> None:
    config = tiny_run(steps=3, checkpoint_every=1)
    outputs = run_ranks(2, run_worker.train_on_full_disk, config)
    for rank, output in enumerate(outputs):
        assert f"rank {rank}: MghError: the checkpoint could not be written" in output
        assert "No space left on device" in output
    assert list((config.path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "empty manifest", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        temporary = tmp_path / f".step-{step}"
        (temporary / checkpoint.STATE).mkdir(parents=True)
        (temporary / checkpoint.STATE / "weights").write_bytes(bytes(range(100)))
        checkpoint._publish(temporary, tmp_path / f"step-{step:06d}", {"step": step}, keep=5)
    victim = tmp_path / "step-000002" / checkpoint.STATE / "weights"
    manifest = tmp_path / "step-000002" / checkpoint.MANIFEST
    if damage == "remove":
        victim.unlink()
    elif damage == "empty manifest":
        manifest.write_text("")
    elif damage == "no manifest":
        manifest.unlink()
    else:
        content = victim.read_bytes()
        victim.write_bytes(content[:50] if damage == "truncate" else content[:50] + b"\xff" + content[51:])
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[1]["step"] == 1
    assert "step-000002 is damaged" in capsys.readouterr().out


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    for step in range(1, 6):
        (tmp_path / f".step-{step}").mkdir()
        checkpoint._publish(tmp_path / f".step-{step}", tmp_path / f"step-{step:06d}", {"step": step}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000004", "step-000005"]
