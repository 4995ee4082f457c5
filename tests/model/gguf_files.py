"""Writes a tiny model's folder as a GGUF file, as llama.cpp's converter would."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray
from safetensors.numpy import load_file

NAMES = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
OF_A_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
CONTROL, NORMAL = 3, 1


def write_gguf(
    folder: Path,
    path: Path,
    type_: Type = Type.F32,
    *,
    keys: dict[str, Any] | None = None,
    tensors: dict[str, NDArray[np.float32] | None] | None = None,
) -> Path:
    """Writes the model in `folder` to `path`, matrices as `type_` and vectors as F32.

    `keys` are written over the usual metadata, `tensors` over the usual tensors; None leaves one out.
    """
    config = json.loads((folder / "config.json").read_text())
    kind = config["model_type"]
    said = {**_sizes(config), **token_keys(folder), **(keys or {})}
    writer = gguf.GGUFWriter(path, said.pop("general.architecture", kind))
    for name, value in said.items():
        _write_key(writer, name.replace("*", kind), value)
    weights = {_name(name): value for name, value in load_file(folder / "model.safetensors").items()}
    for name, value in weights.items():
        if kind == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
            halves = value.reshape(-1, 2, config["head_dim"] // 2, value.shape[1])
            weights[name] = halves.swapaxes(1, 2).reshape(value.shape)
    for name, value in {**weights, **(tensors or {})}.items():
        if value is not None:
            stored = type_ if value.ndim == 2 else Type.F32
            writer.add_tensor(name, gguf.quantize(value, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, number, inner = name.split(".", 2)
    module, _, suffix = inner.rpartition(".")
    return f"blk.{number}.{OF_A_LAYER[module]}.{suffix}"


def _sizes(config: dict[str, Any]) -> dict[str, Any]:
    """The metadata of the architecture, which `*` stands for."""
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return {
        "*.block_count": config["num_hidden_layers"],
        "*.context_length": config["max_position_embeddings"],
        "*.embedding_length": config["hidden_size"],
        "*.feed_forward_length": config["intermediate_size"],
        "*.attention.head_count": config["num_attention_heads"],
        "*.attention.head_count_kv": config["num_key_value_heads"],
        "*.attention.key_length": width,
        "*.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "*.rope.dimension_count": width,
        "*.rope.freq_base": float(config["rope_parameters"]["rope_theta"]),
    }


def token_keys(folder: Path) -> dict[str, Any]:
    """The metadata of the tokenizer in `folder`."""
    described = json.loads((folder / "tokenizer.json").read_text())
    vocabulary: dict[str, int] = described["model"]["vocab"]
    special = {token["content"]: token["id"] for token in described["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    ids = {"bos": special.get("<s>"), "eos": special["</s>"], "padding": special["<pad>"]}
    if "unk_token" in json.loads((folder / "tokenizer_config.json").read_text()):
        ids["unknown"] = ids["eos"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL if token in special else NORMAL for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in described["model"]["merges"]],
        "tokenizer.ggml.add_bos_token": "<s>" in special,
        **{f"tokenizer.ggml.{name}_token_id": number for name, number in ids.items()},
    }


def _write_key(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    """One of the metadata; None writes nothing."""
    match value:
        case bool():
            writer.add_bool(name, value)
        case int():
            writer.add_uint32(name, value)
        case float():
            writer.add_float32(name, value)
        case str():
            writer.add_string(name, value)
        case list():
            writer.add_array(name, value)
