"""Models whose layers without column sums run builds of flash attention: embeddings and gradients are
those of torch's attention, packed and padded. The builds are stand-ins, which compute in fp32 as well.
"""

import pytest
import torch

from mgh_ds.model.config import PoolingConfig
from tests.flash_builds import FA2, FA3, RAN
from tests.model.conftest import FAMILIES, TEXTS
from tests.model.test_packed import both, gradients, moved_adapters, near

BUILDS = {"flash_attn_interface": FA3, "flash_attn": FA2}


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_familys_embeddings_stay(family, bidirectional, load, flash_builds):
    model, tokenizer = load(family, bidirectional=bidirectional)
    packed, padded = both(tokenizer)
    expected = model(padded)
    assert RAN == [], "without a GPU nobody is asked"
    flash_builds(BUILDS)
    for batch in (packed, padded):
        model(batch)  # tries the builds
        RAN.clear()
        near(model(batch), expected)
        others = model.backbone.config.num_hidden_layers - len(model.layers)
        assert [name for name, _ in RAN] == ["flash_attn_interface"] * others
        assert others > 1
        assert {asked["causal"] for _, asked in RAN} == {model.backbone.config.is_causal}


@pytest.mark.parametrize("family", ["minilm", "modernbert", "gemma2", "mistral"])
def test_adapters_gradients_stay(family, folders, flash_builds):
    """To 1e-4 of a tensor's largest entry: fp32, through up to six layers, forth and back."""
    pooling = PoolingConfig(layers=[-1])
    model, tokenizer = moved_adapters(folders[family], pooling=pooling, activation_checkpointing=True)
    packed, padded = both(tokenizer)
    expected = gradients(model, padded)
    flash_builds(BUILDS)
    for batch in (packed, padded):
        for name, found in gradients(model, batch).items():
            largest = expected[name].abs().max()
            assert largest > 0
            assert (found - expected[name]).abs().max() < 1e-4 * largest, name
    assert {name for name, _ in RAN} == {"flash_attn_interface"}


@torch.no_grad()
def test_a_padded_batch_makes_no_mask_of_pairs(load, flash_builds):
    """What the layers are told is the places of the tokens."""
    model, tokenizer = load("mistral", method="mean")
    told = []
    for layer in model.backbone.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda _, __, options: told.append(options["attention_mask"]), with_kwargs=True
        )
    batch = tokenizer.tokenize(TEXTS)
    flash_builds(BUILDS)
    model(batch)
    places = batch.attention_mask.flatten().nonzero()[:, 0]
    assert len(told) == model.backbone.config.num_hidden_layers
    assert all(torch.equal(mask, places) for mask in told)
