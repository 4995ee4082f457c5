"""Every weight trained, without adapters: checkpoints of any size pass through memory that stays as it is,
and killed and resumed equals never killed."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import MistralConfig

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.model import tiny
from mgh_ds.model.embedder import build_model
from mgh_ds.model.encoder import Encoder
from mgh_ds.training.config import RunConfig
from mgh_ds.training.export import export_run, load_run
from tests.ranks import Ranks, run_ranks, start_ranks
from tests.training import full_worker, run_worker
from tests.training.run_worker import Fault
from tests.training.test_resume import assert_equal_runs, final_weights, ledger, losses

Make = Callable[..., RunConfig]

MIB = 2**20
UNDER_WAY = 2 * MIB
# What the interpreter, gloo and the allocator may want meanwhile.
NOISE = 16 * MIB


@pytest.fixture
def larger_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A decoder of 10 M weights, none of whose tensors has more than 1 MiB."""
    sizes = tiny.DECODER | {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 10}
    monkeypatch.setitem(
        tiny.CONFIGS, "mistral", lambda **ids: MistralConfig(**sizes, sliding_window=None, **ids)
    )
    tiny.make_tiny_model("mistral", tmp_path / "model")
    return tmp_path / "model"


def full(config: RunConfig, name: str, **model: object) -> RunConfig:
    return config.replace(name=name, model=config.model.replace(lora=None, **model))


def test_memory_stays_as_it_is_whatever_the_state_has(
    tiny_run: Make, larger_model: Path, tmp_path: Path
) -> None:
    """Written, killed in the middle of writing, and gone on from by as many ranks and by another number."""
    sizes = {"steps": 3, "checkpoint_every": 1, "global_batch": 6, "learning_rate": 1e-4}
    model = {"name_or_path": str(larger_model), "max_length": 16, "use_instructions": False}
    whole, killed = (full(tiny_run(**sizes), name, **model) for name in ("whole", "killed"))
    run_ranks(2, full_worker.train_measured, whole, UNDER_WAY, tmp_path)
    tensors = final_weights(whole)
    state = 3 * sum(tensor.nbytes for tensor in tensors.values())
    assert state > 100 * MIB
    largest = max(tensor.nbytes for tensor in tensors.values())
    for rank in (0, 1):
        written = files.read_json(tmp_path / f"{rank}-of-2.json")["written"]
        print(f"rank {rank} grew by {[size / MIB for size in written]} MiB, of {state / MIB}")
        assert max(written) < UNDER_WAY + 2 * largest + NOISE < state / 5

    middle = 3 * len(tensors) + len(tensors) + 10  # of the second checkpoint's moments
    with Ranks(2, full_worker.train_killed_while_writing, killed, middle) as ranks:
        codes = ranks.wait_for_the_first(timeout=100)
        assert codes[0] == -signal.SIGKILL, ranks.outputs()
    names = sorted(path.name for path in (killed.path / "checkpoints").iterdir())
    assert names[-1] == "step-000001"
    assert names[0].startswith(".step-000002"), "it was in the middle"

    other = killed.replace(name="other")
    shutil.copytree(killed.path, other.path)
    for resumed, world_size in ((killed, 2), (other, 3)):
        outputs = run_ranks(world_size, full_worker.train_measured, resumed, UNDER_WAY, tmp_path)
        assert "1 of 3 steps are done" in outputs[0]
        for rank in range(world_size):
            (read,) = files.read_json(tmp_path / f"{rank}-of-{world_size}.json")["read"]
            own = 2 / 3 * state / world_size  # Adam's moments, of this rank's slice, are there afterwards
            print(f"rank {rank} of {world_size} grew by {read / MIB} MiB, of which it keeps {own / MIB}")
            assert read < own + 2 * largest + NOISE < state
    assert_equal_runs(killed, whole)
    assert ledger(other) == ledger(whole)
    for (_, found), (_, expected) in zip(losses(other), losses(whole), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


def test_all_weights_train_in_bfloat16_with_activation_checkpointing(tiny_run: Make, tmp_path: Path) -> None:
    """Master weights, kill and resume, export."""
    changes = {"dtype": "bfloat16", "activation_checkpointing": True}
    whole, killed = (full(tiny_run(steps=4), name, **changes) for name in ("whole", "killed"))
    run_ranks(2, run_worker.train, whole)
    codes, outputs = start_ranks(2, run_worker.train, killed, Fault("forward", step=3), timeout=100)
    assert codes[1] == -signal.SIGKILL, outputs
    run_ranks(2, run_worker.train, killed)
    assert_equal_runs(killed, whole)

    weights = final_weights(killed)
    start, _ = build_model(killed.model)
    untrained = dict(start.named_parameters())
    assert weights.keys() == untrained.keys()
    assert all(not torch.equal(weights[name], weight.float()) for name, weight in untrained.items())
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in weights.values()), "masters"
    model, *_ = load_run(killed.path)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name].bfloat16()), name
    between, *_ = load_run(killed.path, interpolate=0.25)
    for name, parameter in between.named_parameters():
        mixed = untrained[name].float().lerp(weights[name], 0.25)
        assert torch.equal(parameter, mixed.bfloat16()), name
    export_run(killed.path, tmp_path / "export")
    exported = load_file(tmp_path / "export" / "model.safetensors")
    assert {f"backbone.{name}" for name in exported} == weights.keys()
    for name, weight in exported.items():
        assert torch.equal(weight, weights[f"backbone.{name}"].bfloat16()), name
    vectors = Encoder.from_pretrained(tmp_path / "export").encode(["a harbour", "a violin"])
    assert vectors.shape == (2, model.dim)
    described = killed.path / "config.yaml"
    described.write_text(described.read_text().replace("use_instructions: true", "use_instructions: false"))
    with pytest.raises(MghError, match=r"use_instructions: false, so that .* leave --query-instruction out"):
        export_run(killed.path, tmp_path / "told", query_instruction="Find it.")
