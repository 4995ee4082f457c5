"""Models of others that would be loaded wrongly: adaptive RoPE, quantised weights, weights that are left
over, and tokens without a row.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from mgh_ds.common.errors import MghError
from mgh_ds.model.backbone import load_backbone
from mgh_ds.model.encoder import Encoder

Copy = Callable[..., Path]


@pytest.fixture
def copy(folders, tmp_path) -> Copy:
    """A copy of a family's folder with other values in its config.json, and more weights."""

    def copy(family: str, config: dict | None = None, weights: dict | None = None) -> Path:
        folder = tmp_path / family
        shutil.copytree(folders[family], folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
        if weights:
            path = folder / "model.safetensors"
            save_file(load_file(path) | weights, path, metadata={"format": "pt"})
        return folder

    return copy


DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 32}),
        (
            "llama",
            {
                "rope_parameters": LONG | {"original_max_position_embeddings": 32},
                "max_position_embeddings": 128,
            },
        ),
        (
            "phi3",
            {
                "rope_parameters": LONG | {"partial_rotary_factor": 1.0},
                "original_max_position_embeddings": 32,
                "max_position_embeddings": 128,
            },
        ),
        (
            "modernbert",
            {
                "rope_parameters": {"full_attention": DYNAMIC, "sliding_attention": PLAIN},
                "max_position_embeddings": 32,
            },
        ),
    ],
    ids=["dynamic", "longrope", "phi3", "of one kind of layer"],
)
def test_a_vector_does_not_change_with_its_neighbours(copy, family, config):
    """Adaptive RoPE does so beyond a length, which is then the longest."""
    folder = copy(family, config)
    encoder = Encoder.from_pretrained(folder, device="cpu")
    assert encoder.max_length == 32
    alone, beside = encoder.encode(["a harbour"]), encoder.encode(["a harbour", "a b " * 60])
    np.testing.assert_allclose(beside[0], alone[0], atol=1e-5)
    with pytest.raises(MghError, match=r"at most 32 tokens; beyond, its .* RoPE"):
        Encoder.from_pretrained(folder, max_length=33)


@pytest.mark.parametrize("rope", [{"rope_type": "su"}, {"type": "mrope"}, {"rope_type": "yarn"}])
def test_an_unknown_or_incomplete_rope_is_refused(copy, rope):
    with pytest.raises(MghError, match=r"config\.json"):
        Encoder.from_pretrained(copy("llama", {"rope_parameters": rope | {"rope_theta": 10000.0}}))


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("llama", {"rope_parameters": {"full_attention": {"rope_type": "linear"}}}, "type 'full_attention'"),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": PLAIN, "sliding_attention": PLAIN | {"rope_type": "su"}}},
            r"gemma3_text.config\.json.*su",
        ),
        ("mistral", {"model_type": "mpnet"}, "'mpnet' model, .* a bias by relative position"),
        ("gemma3_text", {"model_type": "gemma3"}, "reads images too; take a text model"),
        ("gemma2", {"use_bidirectional_attention": True}, "which a gemma2's masks do not obey"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "which a gemma3_text's layers do not obey"),
        (
            "smollm3",
            {"layer_types": ["sliding_attention"] * 3, "sliding_window": 4},
            "names sliding_attention, but use_sliding_window is false",
        ),
        ("bert", {"position_embedding_type": "relative_key"}, "is 'relative_key', not absolute"),
        ("roberta", {"pad_token_id": None}, "names no pad_token_id"),
        ("bert", {"hidden_act": "nope"}, "describes no bert model: 'nope'"),
        ("bert", {"num_attention_heads": 5}, "describes no bert model: The hidden size"),
        ("llama", {"pad_token_id": 100_000}, "describes no llama model: Padding_idx must be within"),
        ("bert", {"auto_map": {"AutoModel": "modeling.Bert"}}, "auto_map says that code in the folder makes"),
        ("bert", {"vocab_size": 100}, r"word_embeddings\.weight is missing or misshapen"),
        ("mistral", {"hidden_size": "wide"}, "no usable mistral configuration: [^\n]*$"),
    ],
)
def test_a_configuration_that_fits_no_model_is_refused(copy, family, config, message):
    with pytest.raises(MghError, match=message):
        load_backbone(copy(family, config))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_malformed_tokenizer_is_refused(copy, name):
    folder = copy("bert")
    (folder / name).write_text("[]")
    with pytest.raises(MghError, match="holds no readable tokenizer"):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "compressed-tensors"])
def test_quantised_weights_are_refused_by_their_method(copy, method):
    folder = copy("mistral", {"quantization_config": {"quant_method": method, "bits": 4}})
    with pytest.raises(MghError, match=rf"quantization_config \({method}\)"):
        load_backbone(folder)


def test_what_else_a_folder_can_be_is_refused(copy):
    folder = copy("bert", {"is_decoder": True})
    with pytest.raises(MghError, match="is_decoder makes this bert causal"):
        load_backbone(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(MghError, match="merge them into the weights first"):
        load_backbone(folder)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("bert", "encoder.layer.0.attention.self.distance_embedding.weight"),
        ("bert", "encoder.layer.3.output.dense.weight"),
        ("qwen3", "layers.0.self_attn.q_proj.bias"),
        ("llama", "model.layers.3.mlp.up_proj.weight"),
        ("roberta", "linear.weight"),
    ],
)
def test_weights_that_are_left_over_are_refused(copy, family, name):
    with pytest.raises(MghError, match=f"1 weights .* does not use, the first being {name.split('.')[0]}"):
        load_backbone(copy(family, weights={name: torch.zeros(4)}))


def test_fewer_layers_than_weights_are_refused(copy):
    with pytest.raises(MghError, match=r"does not use, the first being .*layers\.2\."):
        load_backbone(copy("mistral", {"num_hidden_layers": 2}))


def test_layers_left_out_on_purpose_excuse_no_others(copy):
    folder = copy("mistral", weights={"layers.3.mlp.up_proj.weight": torch.zeros(4)})
    with pytest.raises(MghError, match=r"1 weights .*layers\.3\."):
        load_backbone(folder, num_layers=2)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_the_usual_heads_may_stay(copy, prefix):
    heads = ["pooler.dense.weight", "cls.predictions.bias", "embeddings.position_ids", "classifier.weight"]
    load_backbone(
        copy("bert", weights={prefix * (i % 2) + name: torch.zeros(4) for i, name in enumerate(heads)})
    )


@pytest.mark.parametrize(
    ("family", "heads"),
    [
        ("distilbert", ["vocab_transform.weight", "vocab_layer_norm.bias", "pre_classifier.weight"]),
        ("electra", ["discriminator_predictions.dense.weight", "generator_lm_head.bias"]),
        ("modernbert", ["head.dense.weight", "decoder.bias"]),
    ],
)
def test_a_familys_own_heads_may_stay_and_no_others(copy, family, heads):
    folder = copy(family, weights={name: torch.zeros(4) for name in heads})
    load_backbone(folder)
    path = folder / "model.safetensors"
    save_file(load_file(path) | {"adapter.weight": torch.zeros(4)}, path, metadata={"format": "pt"})
    with pytest.raises(MghError, match=r"1 weights .* the first being adapter"):
        load_backbone(folder)


def test_the_heads_of_decoders_may_stay(copy):
    names = ["lm_head.weight", "score.weight", "layers.0.self_attn.rotary_emb.inv_freq"]
    load_backbone(copy("llama", weights={name: torch.zeros(4) for name in names}))


@pytest.mark.parametrize("added", [{"additional_special_tokens": ["<query>"]}, {"pad_token": "<padding>"}])
def test_a_token_without_a_row_is_refused(copy, added):
    folder = copy("qwen3")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens(added)
    tokenizer.save_pretrained(folder)
    with pytest.raises(MghError, match=r"1 tokens .* no row in the embedding table of .*'<(query|padding)>'"):
        Encoder.from_pretrained(folder)


def test_a_token_around_a_text_without_a_row_is_refused(copy):
    """One that the vocabulary does not have."""
    folder = copy("bert")
    path = folder / "tokenizer.json"
    described = json.loads(path.read_text())
    described["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [99_999]
    path.write_text(json.dumps(described))
    with pytest.raises(MghError, match=r"1 tokens have no row in the embedding table of .* number 99999"):
        Encoder.from_pretrained(folder)
