"""`num_layers`: the first layers of a backbone alone, for every family, kept by export."""

import json

import pytest
import torch

from mgh_ds.common.errors import MghError
from mgh_ds.model.config import ModelConfig, PoolingConfig
from mgh_ds.model.embedder import build_model
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.export import export
from tests.model.conftest import FAMILIES, TEXTS


def config(folder, num_layers: int | None = 2) -> ModelConfig:
    pooling = PoolingConfig(method="mean", include_bos=True)
    return ModelConfig(name_or_path=str(folder), num_layers=num_layers, pooling=pooling, max_length=64)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_layers_are_those_of_the_whole_model(folders, family):
    """For encoders, whose last layer has no norm after it, states can be compared with the whole model's."""
    short, tokenizer = build_model(config(folders[family]).replace(lora=None))
    whole, _ = build_model(config(folders[family], None).replace(lora=None))
    assert short.backbone.config.num_hidden_layers == 2
    own, all_weights = short.backbone.state_dict(), whole.backbone.state_dict()
    assert own.keys() < all_weights.keys()
    assert all(torch.equal(own[name], all_weights[name]) for name in own)
    if family in ("minilm", "roberta"):
        batch = tokenizer.tokenize(TEXTS, [None] * len(TEXTS))
        seen = {}
        whole.backbone.encoder.layer[1].register_forward_hook(
            lambda *args: seen.update(states=args[2][0] if isinstance(args[2], tuple) else args[2])
        )
        with torch.no_grad():
            whole.states(batch)
            hidden, _ = short.states(batch)
        torch.testing.assert_close(hidden, seen["states"].view_as(hidden))


@pytest.mark.parametrize("family", ["minilm", "qwen3"])
def test_adapters_and_export_keep_the_number(folders, family, tmp_path):
    model, tokenizer = build_model(config(folders[family]))
    adapted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert adapted
    assert not [name for name in adapted if ".layers.2." in name or ".layer.2." in name]
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    vectors = Encoder(model, tokenizer).encode(TEXTS)
    export(model, tokenizer, tmp_path / "out", card="")
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    assert described["num_hidden_layers"] == 2
    assert len(described.get("layer_types") or [0, 0]) == 2
    again = Encoder.from_pretrained(tmp_path / "out", device="cpu")
    assert (vectors * again.encode(TEXTS)).sum(1).min() >= 0.99999


@pytest.mark.parametrize("count", [0, -1, 4])
def test_more_layers_than_there_are_and_none_are_refused(folders, count):
    with pytest.raises(MghError, match=f"model.num_layers is {count}, but .* has 3: 1 to 3"):
        build_model(config(folders["mistral"], count))


def test_pooling_counts_the_layers_that_are_left(folders):
    pooling = PoolingConfig(layers=[2])
    with pytest.raises(MghError, match="layers names 2, but the model has 2"):
        build_model(config(folders["mistral"]).replace(pooling=pooling))
