"""`build_model`: adapters, seeds, and models that cannot be built."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mgh_ds.common.errors import MghError
from mgh_ds.model.config import LoraConfig, ModelConfig
from mgh_ds.model.embedder import build_model
from tests.model.conftest import TEXTS


@pytest.fixture
def copy(folders, tmp_path):
    """A family's folder, to be damaged."""

    def copy(family):
        return shutil.copytree(folders[family], tmp_path / family)

    return copy


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", ["bert", "mistral"])
def test_only_adapters_are_trained_on_every_linear_layer(family, folders):
    model, _ = build_model(ModelConfig(name_or_path=str(folders[family]), lora=LoraConfig(rank=2)))
    adapted = {name.split(".lora_")[0] for name in trainable(model)}
    linear = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name
    }
    assert adapted == {name.removesuffix(".base_layer") for name in linear}
    assert len(adapted) == 3 * (7 if family == "mistral" else 6)


def test_a_layer_before_the_blocks_is_left_alone(folders):
    model, _ = build_model(ModelConfig(name_or_path=str(folders["electra"]), lora=LoraConfig(rank=2)))
    assert any("embeddings_project" in name for name, _ in model.named_parameters())
    assert not any("embeddings_project" in name for name in trainable(model))


def test_named_layers_only(folders):
    lora = LoraConfig(target_modules=["q_proj", "v_proj"])
    model, _ = build_model(ModelConfig(name_or_path=str(folders["qwen3"]), lora=lora))
    assert {name.split(".")[-4] for name in trainable(model)} == {"q_proj", "v_proj"}


def test_without_adapters_everything_is_trained(folders):
    model, _ = build_model(ModelConfig(name_or_path=str(folders["llama"]), lora=None))
    assert trainable(model) == {name for name, _ in model.named_parameters()}


def test_the_seed_alone_decides_the_adapters_first_weights(folders):
    config = ModelConfig(name_or_path=str(folders["mistral"]))
    models = []
    for seed in (7, 7, 8):
        torch.rand(3)  # the state of the global generator must not matter, and is left as it was
        before = torch.get_rng_state()
        models.append(build_model(config, seed=seed)[0].state_dict())
        assert torch.equal(before, torch.get_rng_state())
    same, other = (all(torch.equal(models[0][name], m[name]) for name in models[0]) for m in models[1:])
    assert same
    assert not other


def test_fresh_adapters_change_nothing(folders):
    """B starts at zero."""
    vectors = []
    for lora in (None, LoraConfig()):
        model, tokenizer = build_model(ModelConfig(name_or_path=str(folders["qwen2"]), lora=lora))
        vectors.append(model(tokenizer.tokenize(TEXTS)))
    assert torch.equal(*vectors)


def test_adapters_that_fit_nothing_are_refused(folders):
    with pytest.raises(MghError, match=r"model\.lora does not fit"):
        build_model(
            ModelConfig(name_or_path=str(folders["bert"]), lora=LoraConfig(target_modules=["q_proj"]))
        )


def test_an_unknown_backbone_is_refused_with_the_known_ones(copy):
    folder = copy("mistral")
    config = json.loads((folder / "config.json").read_text())
    for kind in ("gpt2", "made-up", None):  # known to transformers, known to nobody, not said
        (folder / "config.json").write_text(json.dumps({**config, "model_type": kind}))
        with pytest.raises(
            MghError, match=rf"a {kind!r} model, which mgh-ds does not know; it knows bert.*mistral"
        ):
            build_model(ModelConfig(name_or_path=str(folder)))


def test_xlm_roberta_is_roberta_by_another_name(copy, folders):
    folder = copy("roberta")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "xlm-roberta"}))
    vectors = []
    for path in (folders["roberta"], folder):
        model, tokenizer = build_model(ModelConfig(name_or_path=str(path), max_length=64))
        vectors.append(model(tokenizer.tokenize(TEXTS)))
    torch.testing.assert_close(*vectors)
    assert "XLMRoberta" in type(model.backbone.get_base_model()).__name__


def test_weights_that_are_missing_are_named(copy):
    """transformers would fill them with random numbers and print a line about it."""
    folder = copy("mistral")
    weights = load_file(folder / "model.safetensors")
    del weights["layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MghError, match=r"layers\.1\.mlp\.up_proj\.weight is missing"):
        build_model(ModelConfig(name_or_path=str(folder)))


def test_pickled_weights_are_not_read(copy):
    folder = copy("mistral")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(MghError, match="no readable weights in safetensors"):
        build_model(ModelConfig(name_or_path=str(folder)))


def test_damaged_weights_are_named(copy):
    folder = copy("qwen2")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MghError, match="qwen2 holds no readable weights"):
        build_model(ModelConfig(name_or_path=str(folder)))


def test_a_model_without_a_tokenizer_is_refused(copy):
    folder = copy("qwen2")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(MghError, match="qwen2 holds no tokenizer"):
        build_model(ModelConfig(name_or_path=str(folder)))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(MghError, match=r"no config\.json"):
        build_model(ModelConfig(name_or_path=str(tmp_path)))
