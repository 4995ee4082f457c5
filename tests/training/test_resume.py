"""Killed and resumed equals never killed, bit for bit; any number of ranks goes on; what does not belong
together is refused; nothing half-written counts."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mgh_ds.common import files
from mgh_ds.common.config import dump_config
from mgh_ds.common.errors import MghError
from mgh_ds.distributed.exits import ExitCode
from mgh_ds.distributed.group import on_each_machine, process_group, rank
from mgh_ds.model.config import LoraConfig, ModelConfig
from mgh_ds.model.tiny import make_tiny_model
from mgh_ds.training import checkpoint, trainer
from mgh_ds.training.checkpoint import CheckpointWriter
from mgh_ds.training.config import RunConfig
from mgh_ds.training.export import export_run
from mgh_ds.training.run_folder import RunFolder
from mgh_ds.training.state import TrainingState
from mgh_ds.training.tensor_file import LazyTensors
from tests.ranks import run_ranks, start_ranks
from tests.training import run_worker
from tests.training.run_worker import Fault

Make = Callable[..., RunConfig]


def final_weights(config: RunConfig) -> dict[str, torch.Tensor]:
    return load_file(config.path / "checkpoints" / f"step-{config.training.steps:06d}" / checkpoint.WEIGHTS)


def ledger(config: RunConfig) -> list[dict[str, Any]]:
    return list(RunFolder(config.path).ledger.entries())


def losses(config: RunConfig) -> list[tuple[int, float]]:
    entries = RunFolder(config.path).metrics.entries()
    return [(entry["step"], entry["loss"]) for entry in entries if entry["kind"] == "step"]


def assert_equal_runs(found: RunConfig, expected: RunConfig) -> None:
    """Bit for bit: what was trained on, every loss, every weight."""
    assert ledger(found) == ledger(expected)
    assert losses(found) == losses(expected)
    weights = final_weights(found)
    for name, weight in final_weights(expected).items():
        assert torch.equal(weights[name], weight), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_killed_and_resumed_equals_never_killed(dtype: str, tiny_run: Make) -> None:
    """With dropout, across a stage boundary, killed off a checkpoint so that one step is trained again."""
    whole = tiny_run(dtype=dtype).replace(name="whole")
    killed = tiny_run(dtype=dtype).replace(name="killed")
    run_ranks(2, run_worker.train, whole)
    fault = Fault("forward", step=3, after="step-000002")
    codes, outputs = start_ranks(2, run_worker.train, killed, fault, timeout=100)
    assert codes[1] == -9, outputs
    assert [path.name for path in (killed.path / "checkpoints").iterdir()] == ["step-000002"]

    outputs = run_ranks(2, run_worker.train, killed)
    assert "2 of 6 steps are done" in outputs[0]
    assert any(weight.any() for name, weight in final_weights(whole).items() if "lora_B" in name), (
        "it did train"
    )
    assert_equal_runs(killed, whole)
    assert [step for step, _ in losses(killed)] == [1, 2, 3, 4, 5, 6]


def test_any_number_of_ranks_goes_on(tiny_run: Make) -> None:
    """1, 3, 2, 4 and again 1 ranks, each asked to stop after a step or two: the same global batches, and the
    same weights within float32's rounding."""
    whole = tiny_run(checkpoint_every=100).replace(name="whole")
    chain = tiny_run(checkpoint_every=100).replace(name="chain")
    run_ranks(2, run_worker.train, whole)
    for world_size, step in ((1, 0), (3, 1), (2, 3), (4, 4)):
        fault = Fault("forward", step, rank=1, action="terminate")  # one rank is asked, all of them stop
        codes, outputs = start_ranks(world_size, run_worker.train, chain, fault, timeout=100)
        assert codes == [ExitCode.STOPPED] * world_size, outputs
        assert f"stopped as asked: {step + 1} of 6 steps are done and saved" in outputs[0]
    run_ranks(1, run_worker.train, chain)
    assert ledger(chain) == ledger(whole)
    for (_, found), (_, expected) in zip(losses(chain), losses(whole), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    weights = final_weights(chain)
    for name, expected in final_weights(whole).items():
        # Adam divides by the gradient's own size, so entries whose gradient is all rounding may differ by a
        # small part of a step.
        torch.testing.assert_close(weights[name], expected, rtol=1e-3, atol=2e-5)


def test_what_does_not_belong_together_is_refused(tiny_run: Make, tmp_path: Path) -> None:
    config = tiny_run(steps=3, checkpoint_every=3)
    run_ranks(1, run_worker.train, config)

    def refusal(changed: RunConfig) -> str:
        return run_ranks(1, run_worker.train_expecting_error, changed)[0]

    faster = config.replace(training=config.training.replace(learning_rate=2e-3))
    assert "config.training.learning_rate: 0.001 → 0.002" in refusal(faster)
    other = tmp_path / "other.jsonl"
    other.write_text(Path(config.data.paths[0]).read_text().replace("the", "a", 1))
    edited = config.replace(data=config.data.replace(train=[str(other)]))
    message = refusal(edited)
    assert "config.data.manifest" in message
    scored = config.data.replace(held_out=str(other))
    assert "config.data.held_out: None" in refusal(config.replace(data=scored))
    assert (config.path / "checkpoints" / "step-000003" / "manifest.json").exists(), "it is untouched"
    assert "learning_rate: 0.001\n" in (config.path / "config.yaml").read_text(), "and so is the recipe"

    accepted = json.loads(message.split("--accept_changes '")[1].split("'")[0])
    assert sorted(accepted) == ["config.data.manifest", "plan"]
    assert "nonsense is no key" in refusal(edited.replace(accept_changes=["nonsense"]))
    run_ranks(1, run_worker.train, edited.replace(accept_changes=accepted))


def test_what_is_said_of_a_source_belongs_to_the_run_but_not_its_path(tiny_run: Make) -> None:
    config = tiny_run()

    def identity(*train: Any) -> dict[str, Any]:
        run: Any = SimpleNamespace(
            config=config.replace(data=config.data.replace(train=list(train))),
            store=SimpleNamespace(manifest_hash="m"),
            plan=SimpleNamespace(fingerprint=lambda _manifest: "p"),
            objective=SimpleNamespace(identity={}),
            held_out=None,
            backbone={},
        )
        return trainer.Trainer._identity(run)

    manifest = {"identity": identity("a", "b")}
    assert manifest["identity"]["config"]["data"] == {"manifest": "m", "held_out": None}, "as ever"
    checkpoint.check(Path("step"), manifest, identity("c", {"path": "d"}))
    capped = identity("a", {"path": "b", "max_epochs": 2.0})
    with pytest.raises(
        MghError, match=r"config\.data\.train: \(no such key\) → \[\{\}, \{'max_epochs': 2\.0\}\]"
    ):
        checkpoint.check(Path("step"), manifest, capped)
    checkpoint.check(Path("step"), {"identity": capped}, identity("c", {"path": "d", "max_epochs": 2.0}))


def test_a_checkpoint_of_another_model_is_refused_on_every_rank(tiny_run: Make) -> None:
    """Rank 0 alone sees it."""
    config = tiny_run(steps=3, checkpoint_every=3)
    run_ranks(1, run_worker.train, config)
    larger = config.model.replace(lora=LoraConfig(rank=8, dropout=0.1))
    changed = config.replace(model=larger, accept_changes=["config.model.lora.rank"])
    for output in run_ranks(2, run_worker.train_expecting_error, changed):
        assert "the checkpoint's weights do not fit this model" in output
        assert re.search(r"lora_A\S*: \[4, \d+\] in the checkpoint, \[8, \d+\] here", output)


def test_a_row_edited_in_the_store_is_found(tiny_run: Make) -> None:
    config = tiny_run(steps=3, checkpoint_every=1)
    fault = Fault("forward", step=2, rank=0, after="step-000001")
    codes, _ = start_ranks(1, run_worker.train, config, fault, timeout=100)
    assert codes == [-9]
    (part,) = (config.path / "data").rglob("part-*.arrow")
    content = part.read_bytes()
    place = content.index(b" the ")
    part.write_bytes(content[:place] + b" teh " + content[place + 5 :])
    (output,) = run_ranks(1, run_worker.train_expecting_error, config)
    assert f"{part} is damaged" in output
    part.write_bytes(content)
    run_ranks(1, run_worker.train, config)
    assert [entry["step"] for entry in ledger(config)] == [1, 2, 3]


def state(size: int = 100) -> TrainingState:
    weights = {"layer.lora_A": torch.arange(size, dtype=torch.float32)}
    moments = {f"{key}/layer.lora_A": torch.ones(size) for key in ("exp_avg", "exp_avg_sq")}
    return TrainingState(lazy(weights), lazy(moments), updates=7)


def lazy(tensors: dict[str, torch.Tensor]) -> LazyTensors:
    return LazyTensors({name: tensor.shape for name, tensor in tensors.items()}, tensors.__getitem__)


def write(folder: Path, *steps: int, keep: int = 5) -> CheckpointWriter:
    writer = CheckpointWriter(folder, keep, before_commit=lambda: None)
    for step in steps:
        writer.begin(state(), step, {"config": 1})
    writer.wait()
    return writer


@pytest.mark.parametrize("file", [checkpoint.WEIGHTS, checkpoint.OPTIMIZER, checkpoint.MANIFEST])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "empty"])
def test_a_damaged_checkpoint_is_passed_over(
    file: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, 1, 2)
    victim = tmp_path / "step-000002" / file
    content = victim.read_bytes()
    middle = len(content) // 2
    if damage == "remove":
        victim.unlink()
    elif damage == "flip":
        victim.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        victim.write_bytes(content[: middle if damage == "truncate" else 0])
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[1]["step"] == 1
    assert "step-000002 is damaged" in capsys.readouterr().out
    loaded = checkpoint.load(*found)
    assert loaded.updates == 7
    for found_tensor, expected in zip(loaded.tensors(), state().tensors(), strict=True):
        assert torch.equal(found_tensor, expected)

    write(tmp_path, 2, keep=1)  # the run has come to that step again
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[1]["step"] == 2


def test_only_the_newest_checkpoints_stay_and_none_from_a_future_that_was_given_up(tmp_path: Path) -> None:
    writer = write(tmp_path, *range(1, 6), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000004", "step-000005"]
    *_, written = writer.take_written()
    assert writer.take_written() == []
    assert written.bytes == sum(
        (tmp_path / "step-000005" / name).stat().st_size
        for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER)
    )
    write(tmp_path, 3, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]


def test_the_best_checkpoint_stays_beside_the_newest(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, 2, before_commit=lambda: None)
    kept = []
    for step, best in enumerate([None, 2, 2, 2, 2, 6, 6], start=1):
        writer.best = best
        writer.begin(state(), step, {})
        writer.wait()
        kept.append([int(path.name[5:]) for path in sorted(tmp_path.iterdir())])
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [5, 6], [6, 7]]


def test_what_must_not_be_older_than_a_checkpoint_is_flushed_first(tmp_path: Path) -> None:
    seen: list[list[str]] = []
    writer = CheckpointWriter(tmp_path, 2, lambda: seen.append([path.name for path in tmp_path.iterdir()]))
    writer.begin(state(), 1, {})
    writer.wait()
    assert seen == [[]]
    assert (tmp_path / "step-000001").is_dir()


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".step-000002.abc").mkdir()
    write(tmp_path, 1)
    checkpoint.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    assert files.read_json(tmp_path / "step-000001" / checkpoint.MANIFEST)["updates"] == 7


def test_where_no_checkpoint_can_be_read_nothing_is_trained_anew(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    for path in tmp_path.iterdir():
        (path / checkpoint.WEIGHTS).write_bytes(b"")
    with pytest.raises(MghError, match=r"none of the 2 checkpoints in .* can be read"):
        checkpoint.newest(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_folders_of_other_names_are_no_checkpoints(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "step-000001-copy").mkdir()
    writer = write(tmp_path, 2, keep=1)
    assert writer.problem is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001-copy", "step-000002"]


def test_whatever_ends_the_writer_is_said(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("the paper jams")

    writer = CheckpointWriter(tmp_path, 2, before_commit=fail)
    writer.begin(state(), 1, {})
    writer.wait()
    assert writer.problem is not None
    assert "the paper jams" in writer.problem


def endless(reads: list[str], count: int = 50) -> TrainingState:
    """A state of so many tensors of 4 KB each; notes which were read."""

    def read(name: str) -> torch.Tensor:
        reads.append(name)
        return torch.zeros(1024)

    shapes = {str(number): torch.Size([1024]) for number in range(count)}
    return TrainingState(LazyTensors(shapes, read), lazy({}), updates=0)


def test_a_disk_that_fails_midway_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is read to its end, since the other ranks take part in that."""
    monkeypatch.setattr(checkpoint, "BYTES_UNDER_WAY", 8 * 1024)

    def fails(*arguments: Any) -> str:
        for _ in range(10):
            arguments[-1]()  # takes a tensor
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "write_file", fails)
    reads: list[str] = []
    writer = CheckpointWriter(tmp_path, 2, before_commit=lambda: None)
    writer.begin(endless(reads), 1, {})
    writer.wait()
    assert len(reads) == 50
    assert writer.problem is not None
    assert "no space left; those before it are untouched" in writer.problem
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_breaks_off_leaves_no_thread_waiting(tmp_path: Path) -> None:
    def read(name: str) -> torch.Tensor:
        if name == "3":
            raise RuntimeError("another rank is gone")
        return torch.zeros(1024)

    shapes = {str(number): torch.Size([1024]) for number in range(5)}
    writer = CheckpointWriter(tmp_path, 2, before_commit=lambda: None)
    with pytest.raises(RuntimeError, match="another rank is gone"):
        writer.begin(TrainingState(LazyTensors(shapes, read), lazy({}), updates=0), 1, {})
    writer.wait()
    assert writer.take_written() == []
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def on_a_folder(tiny_run: Make, tmp_path: Path) -> RunConfig:
    """A finished run on a model in a folder of its own."""
    make_tiny_model("mistral", tmp_path / "model", seed=1)
    config = tiny_run(steps=3)
    config = config.replace(model=config.model.replace(name_or_path=str(tmp_path / "model")))
    run_ranks(1, run_worker.train, config)
    return config


def test_another_backbone_under_the_same_name_is_refused(
    on_a_folder: RunConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By resuming, by export, and not by a checkpoint that does not know its own; what is accepted is."""
    config, weights = on_a_folder, tmp_path / "model" / "model.safetensors"
    manifest = config.path / "checkpoints" / "step-000003" / checkpoint.MANIFEST
    backbone = files.read_json(manifest)["identity"]["backbone"]
    assert backbone["model.safetensors"] == files.sha256(weights)
    assert files.read_json(config.path / "backbone.json") == backbone
    export_run(config.path, tmp_path / "first")
    assert capsys.readouterr().out == ""

    make_tiny_model("mistral", tmp_path / "other", seed=2)
    shutil.copy(tmp_path / "other" / "model.safetensors", weights)
    monkeypatch.setattr(trainer, "build_run_model", stop)  # a start that is not refused comes to here
    monkeypatch.setattr(RunFolder, "hold", lambda _: None)  # errors keep what failed, and so its lock, alive
    with pytest.raises(MghError) as refused:
        trainer.Trainer(config, RunFolder(config.path))
    said = str(refused.value)
    assert f"differing: backbone.model.safetensors: {backbone['model.safetensors']} → " in said
    assert "go on all the same with --accept_changes '[\"backbone.model.safetensors\"]'" in said
    assert files.read_json(config.path / "backbone.json") == backbone, "it is untouched"
    with pytest.raises(MghError, match=r"is not the backbone that .*step-000003 was trained on; differing"):
        export_run(config.path, tmp_path / "second")
    assert not (tmp_path / "second").exists()

    accepted = config.replace(accept_changes=["backbone.model.safetensors"])
    with pytest.raises(ZeroDivisionError):
        trainer.Trainer(accepted, RunFolder(config.path))
    files.write_text(config.path / "config.yaml", dump_config(accepted))
    export_run(config.path, tmp_path / "second")
    forget_backbone(manifest)
    files.write_text(config.path / "config.yaml", dump_config(config))
    capsys.readouterr()
    export_run(config.path, tmp_path / "third")
    assert "step-000003 does not say which files its backbone had" in capsys.readouterr().out
    with pytest.raises(ZeroDivisionError):
        trainer.Trainer(config, RunFolder(config.path))
    assert "step-000003 does not say which files its backbone had" in capsys.readouterr().out


def stop(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError


def forget_backbone(path: Path) -> None:
    """Makes a checkpoint one of before there were fingerprints."""
    manifest = files.read_json(path)
    del manifest["identity"]["backbone"], manifest["sha256"]
    files.write_json(path, manifest | {"sha256": checkpoint._digest(manifest)})


def test_a_backbone_that_another_machine_has_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [{"config.json": "1"}, {"config.json": "1"}, {"config.json": "2"}]
    monkeypatch.setattr(trainer, "on_each_machine", lambda _: there)
    with pytest.raises(MghError, match=r"m is not the same on all machines; differing: config\.json: 1 → 2"):
        trainer.backbone_of_all(ModelConfig(name_or_path="m"))


def print_what_machines_say() -> None:
    """Ranks 0 and 2 are the first of theirs; the second fails in the end."""
    with process_group():
        os.environ["LOCAL_RANK"] = str(rank() % 2)
        print(on_each_machine(rank))

        def fail_alone() -> None:
            if rank() == 2:
                raise MghError("no model")

        try:
            on_each_machine(fail_alone)
        except MghError as error:
            print(error)


def test_the_first_rank_of_every_machine_works() -> None:
    for output in run_ranks(3, print_what_machines_say):
        assert "[0, 2]\nrank 2: no model" in output
