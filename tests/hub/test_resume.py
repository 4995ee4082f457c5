"""A run that was pushed goes on elsewhere as if it had never stopped."""

import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mgh_ds.common.config import load_config
from mgh_ds.common.errors import MghError
from mgh_ds.curriculum import CurriculumConfig
from mgh_ds.hub.commands import pull_command, push_command
from mgh_ds.model.config import LoraConfig, ModelConfig
from mgh_ds.training import checkpoint
from mgh_ds.training.config import DataConfig, RunConfig
from mgh_ds.training.run_folder import RunFolder
from tests.hub.conftest import tree_of
from tests.hub.stand_in import Hub
from tests.ranks import run_ranks
from tests.training import run_worker


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Four steps of a tiny model with dropout, with checkpoints of steps 2 and 4."""
    sample = Path("mgh_ds/records/sample/train.jsonl").read_text(encoding="utf-8").splitlines()
    short = [line for line in sample if '"short-short"' in line][:16]
    (tmp_path / "short.jsonl").write_text("\n".join(short) + "\n", encoding="utf-8")
    return RunConfig(
        name="whole",
        folder=str(tmp_path / "runs"),
        model=ModelConfig(
            name_or_path="tiny-random/mistral", lora=LoraConfig(rank=4, dropout=0.1), max_length=64
        ),
        data=DataConfig(train=[str(tmp_path / "short.jsonl")]),
        training={"steps": 4, "global_batch": 4, "micro_batch": 2, "checkpoint_every": 2},  # type: ignore[arg-type]
        curriculum=CurriculumConfig(homogeneous=False),
    )


def test_trained_pushed_pulled_and_gone_on_with_equals_never_stopped(
    hub: Hub, config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is pushed is a run that was killed at its end, with step 2 as its newest checkpoint."""
    run_ranks(1, run_worker.train, config)
    here = config.replace(name="here")
    shutil.copytree(config.path, here.path)
    shutil.rmtree(here.path / "checkpoints" / "step-000004")
    (here.path / "run.json").unlink()
    with pytest.raises(MghError, match="has no exported model yet"):
        push_command(here.path, "me/run", yes=True)
    push_command(here.path, "me/run", checkpoints=True, yes=True)
    said = capsys.readouterr().out
    assert "what it is gone on with, step 2 of 4\n" in said
    assert "left out: data/ (" in said
    commit = hub.repositories["models", "me/run"].branches["main"]

    elsewhere = tmp_path / "elsewhere" / "run"
    pull_command(f"me/run@{commit}", elsewhere)
    going_on = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("it goes on"))
    _, verb, *words = shlex.split(going_on.removeprefix("it goes on with: "))
    assert verb == "train"
    there = load_config(RunConfig, words)
    assert there.path == elsewhere
    assert not (elsewhere / "export").exists()
    (output,) = run_ranks(1, run_worker.train, there)
    assert "2 of 4 steps are done" in output

    found, expected = RunFolder(there.path), RunFolder(config.path)
    assert list(found.ledger.entries()) == list(expected.ledger.entries())
    assert [entry["loss"] for entry in found.metrics.entries() if entry["kind"] == "step"] == [
        entry["loss"] for entry in expected.metrics.entries() if entry["kind"] == "step"
    ]
    for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER):
        weights = load_file(found.checkpoints / "step-000004" / name)
        whole = load_file(expected.checkpoints / "step-000004" / name)
        assert weights.keys() == whole.keys()
        assert all(torch.equal(weights[key], whole[key]) for key in whole), name

    # Pushed again, the newer checkpoint takes the place of the older, which can still be had by its commit.
    push_command(there.path, "me/run", checkpoints=True, yes=True)
    names = {path.split("/")[2] for path in hub.tree("me/run") if path.startswith("run/checkpoints/")}
    assert names == {"step-000004"}
    pull_command(f"me/run@{commit}", tmp_path / "again")
    assert "checkpoints/step-000002/weights.safetensors" in tree_of(tmp_path / "again")


def test_a_run_with_its_model_lies_at_the_top_of_the_repository(
    hub: Hub, export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model where any library finds it, the run below; pulled, both are where they were."""
    run = tmp_path / "run"
    (run / "evaluation").mkdir(parents=True)
    (run / "config.yaml").write_text(
        "name: run\nmodel: {name_or_path: tiny-random/mistral}\ndata: {train: ['sample:train']}\n"
        "training: {steps: 4, global_batch: 4, micro_batch: 2, guide: {name_or_path: my/guide}}\n"
    )
    (run / "metrics.jsonl").write_text('{"kind": "step", "step": 1}\n')
    (run / "evaluation" / "before.json").write_text("{}")
    export.rename(run / "export")
    push_command(run, "me/run", yes=True)
    assert not any(path.startswith("run/") for path in hub.tree("me/run"))
    with pytest.raises(MghError, match="has no complete checkpoint to go on from yet"):
        push_command(run, "me/run", checkpoints=True, yes=True)

    tree = dict(hub.tree("me/run")) | {f"run/{name}": b"" for name in ("config.yaml", "metrics.jsonl")}
    tree["run/config.yaml"] = (run / "config.yaml").read_bytes()
    tree["run/checkpoints/step-000001/evil.bin"] = b"pickle"
    hub.repositories["models", "me/run"].commit("main", tree, "by hand")
    pull_command("me/run", tmp_path / "pulled")
    assert set(tree_of(tmp_path / "pulled")) == {
        "config.yaml",
        "metrics.jsonl",
        *(f"export/{name}" for name in tree_of(run / "export")),
    }
    assert (
        "are checked at the start: tiny-random/mistral, my/guide, sample:train\n" in capsys.readouterr().out
    )


def test_a_run_in_which_a_job_trains_is_not_pushed(config: RunConfig) -> None:
    folder = RunFolder(config.path)
    folder.hold()
    for name in ("config.yaml", "metrics.jsonl"):
        (config.path / name).touch()
    with pytest.raises(MghError, match="another job is training in"):
        push_command(config.path, "me/run", checkpoints=True)
