"""Adapters of earlier runs lie below new ones, are known by their fingerprint, and are shipped."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mgh_ds.common import files
from mgh_ds.common.config import dump_config, load_config
from mgh_ds.common.errors import MghError
from mgh_ds.model.config import ModelConfig
from mgh_ds.model.embedder import build_model
from mgh_ds.training import checkpoint
from mgh_ds.training.adapters import adapter_lines, base_fingerprint, build_run_model
from mgh_ds.training.config import RunConfig
from mgh_ds.training.export import export_run, instructions, load_run
from tests.ranks import run_ranks
from tests.training import run_worker
from tests.training.mntp_setup import make_decoder, mntp_run, write_texts


@pytest.fixture(scope="module")
def mntp(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A finished run of masked next-token prediction."""
    folder = tmp_path_factory.mktemp("mntp")
    config = mntp_run(make_decoder(folder / "tied"), write_texts(folder / "texts.txt"), folder, steps=2)
    run_ranks(1, run_worker.train, config)
    return config


def with_adapters(config: RunConfig, *runs: RunConfig) -> RunConfig:
    adapters = [str(run.path) for run in runs]
    return config.replace(model=config.model.replace(adapters=adapters))


def test_what_is_merged_is_what_the_run_would_export(mntp: RunConfig, tmp_path: Path) -> None:
    export_run(mntp.path, tmp_path / "export")
    exported = load_file(tmp_path / "export" / "model.safetensors")
    plain, _ = build_model(mntp.model.replace(lora=None))
    on_top = with_adapters(mntp, mntp).model.replace(lora=None)
    base = base_fingerprint(on_top)
    merged, _ = build_run_model(on_top, base)
    weights = merged.backbone.state_dict()
    assert weights.keys() == exported.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, exported[name], rtol=0, atol=1e-7)
    changed = [
        name for name, weight in plain.backbone.state_dict().items() if not torch.equal(weight, weights[name])
    ]
    assert len(changed) == 3 * 7, "all linear layers of all blocks"
    export_run(mntp.path, tmp_path / "between", interpolate=0.25)
    between = load_file(tmp_path / "between" / "model.safetensors")
    for name, weight in plain.backbone.state_dict().items():
        torch.testing.assert_close(between[name], weight.lerp(exported[name], 0.25), rtol=0, atol=1e-7)
    card = (tmp_path / "between" / "README.md").read_text()
    assert "The weights lie between its own (0.25) and the backbone's." in card
    half = load_config(
        RunConfig, ["--config", str(mntp.path / "config.yaml"), "--evaluation.interpolate", "0.25"]
    )
    (tmp_path / "half").mkdir()
    shutil.copytree(mntp.path, tmp_path / "half" / "run", ignore=shutil.ignore_patterns(".lock"))
    (tmp_path / "half" / "run" / "config.yaml").write_text(dump_config(half))
    quarter = on_top.replace(adapters=[str(tmp_path / "half" / "run")])
    less, _ = build_run_model(quarter, base_fingerprint(quarter))
    for name, weight in less.backbone.state_dict().items():
        torch.testing.assert_close(weight, between[name], rtol=0, atol=1e-7)
    with pytest.raises(MghError, match=r"--interpolate is 1\.5; it must be from 0"):
        load_run(mntp.path, interpolate=1.5)
    with pytest.raises(MghError, match=r"mntp has another checkpoint now than when it was checked"):
        build_run_model(on_top, base | {"adapter-1": "0" * 64 + ", scale 2"})


def test_an_export_has_the_instructions_of_queries_and_of_the_tasks_that_were_scored(
    mntp: RunConfig, tmp_path: Path
) -> None:
    """Under the names at which sentence-transformers and mteb look for them."""
    export_run(mntp.path, tmp_path / "export", query_instruction="Find it.")
    described = files.read_json(tmp_path / "export" / "config_sentence_transformers.json")
    assert described["prompts"] == {"query": "Instruct: Find it.\nQuery: ", "document": ""}
    tasks = ["STS17", "SciFact", "Unknown"]
    scored = mntp.replace(evaluation=mntp.evaluation.replace(tasks=tasks))
    named = instructions(scored)
    assert named.keys() == {"STS17", "SciFact-query"}
    assert named["STS17"].startswith("Retrieve sentences that mean the same")


def test_a_run_on_top_of_it_and_a_third_on_top_of_both(
    mntp: RunConfig, tiny_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    second = tiny_run(steps=3)
    second = second.replace(name="second", model=second.model.replace(name_or_path=mntp.model.name_or_path))
    second = with_adapters(second, mntp)
    run_ranks(1, run_worker.train, second)
    assert adapter_lines(second.model) == [f"adapters of {mntp.path}: the newest checkpoint, of step 2"]
    _, manifest = checkpoint.of_step(second.path / "checkpoints", 3)
    backbone = manifest["identity"]["backbone"]
    assert backbone == base_fingerprint(second.model)
    assert set(backbone) - set(base_fingerprint(mntp.model)) == {"adapter-1"}
    assert "adapters" not in manifest["identity"]["config"]["model"], "a path is no identity"

    export_run(second.path, tmp_path / "export")
    assert f"(with the adapters of `{mntp.path}`)" in (tmp_path / "export" / "README.md").read_text()
    exported = load_file(tmp_path / "export" / "model.safetensors")
    third = with_adapters(second, mntp, second)
    assert set(base_fingerprint(third.model)) - set(backbone) == {"adapter-2"}
    merged, _ = build_run_model(third.model.replace(lora=None), base_fingerprint(third.model))
    for name, weight in merged.backbone.state_dict().items():
        torch.testing.assert_close(weight, exported[name], rtol=0, atol=1e-6)

    with pytest.raises(MghError, match=r"second was trained on .* differing: backbone\.adapter-1"):
        base_fingerprint(with_adapters(second, second).model)  # which lacks what it was trained on
    refused = run_ranks(1, run_worker.train_expecting_error, with_adapters(second))[0]
    assert "belongs to another run; differing: backbone.adapter-1" in refused


def test_adapters_of_another_backbone_are_refused_before_it_is_loaded(
    mntp: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgh_ds.model.backbone._load", lambda *_: pytest.fail("the model was loaded"))
    other = with_adapters(mntp, mntp).model.replace(name_or_path="tiny-random/mistral")
    words = r"model\.adapters: .*mntp was trained on .*tied, which is not what tiny-random/mistral is here"
    with pytest.raises(MghError, match=words):
        base_fingerprint(other)
    with pytest.raises(MghError, match=r"was trained with model\.num_layers None, but here it is 2"):
        base_fingerprint(with_adapters(mntp, mntp).model.replace(num_layers=2))
    with pytest.raises(MghError, match=r"nowhere is no folder of a run"):
        base_fingerprint(mntp.model.replace(adapters=[str(tmp_path / "nowhere")]))
    (tmp_path / "begun").mkdir()
    shutil.copy(mntp.path / "config.yaml", tmp_path / "begun")
    with pytest.raises(MghError, match=r"model\.adapters: .*begun cannot be taken: .*no complete checkpoint"):
        base_fingerprint(mntp.model.replace(adapters=[str(tmp_path / "begun")]))


def test_adapters_are_not_left_out_in_silence() -> None:
    with pytest.raises(ValueError, match="others were given"):
        build_model(ModelConfig(name_or_path="tiny-random/mistral", adapters=["runs/x"]))
