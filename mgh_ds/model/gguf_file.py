"""A GGUF file, llama.cpp's format, read as transformers would hold the model: configuration and weights.

Keys and tensors are named as in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What is not
understood is refused, tensor by tensor and key by key: left out, it would make another model of this one.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from mgh_ds.common import extras
from mgh_ds.common.errors import MghError

# Called the same in GGUF and in transformers. llama.cpp writes Mistral as llama.
ARCHITECTURES = ("llama", "qwen2", "qwen3")

WEIGHTS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
OF_A_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
# Llama 3.1's and 3.2's: what the frequencies of their rotary embeddings are divided by.
ROPE_DIVISORS = "rope_freqs.weight"

# Special tokens by transformers' names, and GGUF's.
SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}

# Keys of an architecture that `config` reads, those that must say nothing, and those that tell nothing new.
READ = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
)
NEUTRAL = {"expert_count": 0, "expert_used_count": 0, "rope.scaling.type": "none"}
BESIDE = ("pooling_type", "tensor_data_layout", "vocab_size")


class GgufFile:
    """A GGUF file: its metadata, and the configuration and weights that transformers would have of it."""

    def __init__(self, path: Path) -> None:
        """Raises MghError if the package `gguf` is missing, and for a file that is damaged, in parts, of an
        unknown architecture or with keys that are not understood."""
        extras.need("gguf", f"{path}")
        import gguf

        self.path = path
        try:
            reader = gguf.GGUFReader(path)
            self.metadata = {name: field.contents() for name, field in reader.fields.items()}
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
            raise MghError(
                f"{path} is no whole GGUF file ({error}): download it again, or take another"
            ) from None
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.architecture = self.metadata.get("general.architecture")
        if self.architecture not in ARCHITECTURES:
            raise MghError(
                f"{path} holds a model of the architecture {self.architecture!r}, which mgh-ds does not read "
                f"from GGUF; it reads {', '.join(ARCHITECTURES)}"
            )
        if self.metadata.get("split.count", 1) != 1:
            raise MghError(f"{path} is one of several parts: put them together with llama-gguf-split --merge")
        self._check_keys()

    def _check_keys(self) -> None:
        prefix = f"{self.architecture}."
        for name, value in self.metadata.items():
            key = name.removeprefix(prefix)
            if not name.startswith(prefix) or key in READ or key in BESIDE or NEUTRAL.get(key) == value:
                continue
            raise MghError(
                f"{self.path}: {name} is {value!r}, which mgh-ds does not apply: without it the vectors "
                "would be another model's"
            )

    @property
    def types(self) -> dict[str, int]:
        """How many tensors are stored as what, such as {"Q4_1": 210, "F32": 61}; the most frequent first."""
        return dict(Counter(tensor.tensor_type.name for tensor in self.tensors.values()).most_common())

    @property
    def rows(self) -> int:
        """Of the embedding table. Raises MghError if there is none."""
        if "token_embd.weight" not in self.tensors:
            raise MghError(f"{self.path} holds no model: it has no token_embd.weight")
        return int(self.tensors["token_embd.weight"].shape[-1])

    def config(self) -> PreTrainedConfig:
        """The model's configuration. Raises MghError for numbers that are missing, of another kind, or of an
        attention that the architecture has not in transformers."""
        hidden, heads = self._number("embedding_length"), self._number("attention.head_count")
        width = self._number("attention.key_length", self._number("rope.dimension_count", hidden // heads))
        for key in ("rope.dimension_count", "attention.value_length"):
            if (found := self._number(key, width)) != width:
                raise MghError(
                    f"{self.path}: {self.architecture}.{key} is {found}, but a head's keys have {width} "
                    "dimensions: mgh-ds reads no such attention from GGUF"
                )
        # Written as float32: 1e-05 and not 9.999999747378752e-06.
        epsilon = float(str(np.float32(self._number("attention.layer_norm_rms_epsilon"))))
        values = {
            "hidden_size": hidden,
            "intermediate_size": self._number("feed_forward_length"),
            "num_hidden_layers": self._number("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self._number("attention.head_count_kv", heads),
            "head_dim": width,
            "rms_norm_eps": epsilon,
            "max_position_embeddings": self._number("context_length"),
            "rope_parameters": self._rope(width),
            "vocab_size": self.rows,
            "tie_word_embeddings": "output.weight" not in self.tensors,
            **{f"{name}_token_id": self.special.get(name) for name in ("bos", "eos", "pad")},
        }
        try:
            return AutoConfig.for_model(self.architecture, **values)
        except (StrictDataclassError, TypeError, ValueError) as error:
            said = " ".join(str(error).split())
            raise MghError(f"{self.path} describes no {self.architecture} model: {said}") from None

    @property
    def tokens(self) -> list[str]:
        """The vocabulary, in the order of the tokens' numbers."""
        return self.metadata.get("tokenizer.ggml.tokens", [])

    @property
    def special(self) -> dict[str, int]:
        """Those of bos, eos, unk and pad that there are, with their numbers. Raises MghError for a number
        that no token has."""
        keys = {name: f"tokenizer.ggml.{key}_token_id" for name, key in SPECIAL.items()}
        found = {name: self.metadata[key] for name, key in keys.items() if self.metadata.get(key) is not None}
        for name, number in found.items():
            if not isinstance(number, int) or not 0 <= number < len(self.tokens):
                raise MghError(f"{self.path}: {keys[name]} is {number!r}, of {len(self.tokens)} tokens")
        return found

    def _number(self, key: str, default: int | None = None) -> Any:
        name = f"{self.architecture}.{key}"
        value = self.metadata.get(name, default)
        if not isinstance(value, int | float) or not value > 0:
            raise MghError(f"{self.path}: {name} must be a number above 0, found {value!r}")
        return value

    def _rope(self, width: int) -> dict[str, Any]:
        """Rotary embeddings as transformers names them; see `ROPE_DIVISORS`."""
        base = float(self._number("rope.freq_base", 10_000))
        plain = {"rope_type": "default", "rope_theta": base}
        if ROPE_DIVISORS not in self.tensors:
            return plain
        divisors = self._values(ROPE_DIVISORS)
        scaled = {
            "rope_type": "llama3",
            "rope_theta": base,
            "factor": float(divisors.max()),
            # The same in all models of the kind.
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        config = LlamaConfig(
            hidden_size=width, num_attention_heads=1, head_dim=width, rope_parameters=dict(scaled)
        )
        frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
        unscaled = base ** (-torch.arange(0, width, 2) / width)
        fits = divisors.shape == frequencies.shape
        if not fits or not torch.allclose(unscaled / divisors, frequencies, rtol=1e-4, atol=0.0):
            raise MghError(
                f"{self.path}: {ROPE_DIVISORS} scales rotary embeddings in no way that mgh-ds knows"
            )
        return scaled

    def check_weights(self, config: PreTrainedConfig) -> None:
        """Raises MghError where names and shapes are not those of transformers' causal model of `config`. No
        weight is read."""
        names = self._names()
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        wanted = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
        if config.tie_word_embeddings:
            del wanted["lm_head.weight"]
        found = {name: tuple(map(int, reversed(self.tensors[own].shape))) for name, own in names.items()}
        if unused := sorted(found.keys() - wanted.keys()):
            raise MghError(
                f"{self.path} holds {len(unused)} weights that a {self.architecture} model does not use, the "
                f"first being {names[unused[0]]}: without them its vectors would be another model's"
            )
        for name, shape in wanted.items():
            if found.get(name) != shape:
                what = f"has shape {found[name]}, not {shape}" if name in found else "is missing"
                raise MghError(f"{self.path} holds no whole {self.architecture} model: {name} {what}")

    def weights(self, config: PreTrainedConfig) -> dict[str, torch.Tensor]:
        """The weights, by the names of transformers' causal model: float16 and bfloat16 as they are,
        everything else as float32. A head that is tied to the embedding table is none of them."""
        return {name: self._weight(own, config) for name, own in self._names().items()}

    def _names(self) -> dict[str, str]:
        """transformers' names of the tensors, and their own."""
        return {self._name(name): name for name in self.tensors if name != ROPE_DIVISORS}

    def _name(self, name: str) -> str:
        """transformers' name of a tensor; one that has none keeps its own."""
        if (layer := LAYER.fullmatch(name)) and layer[2] in OF_A_LAYER:
            return f"model.layers.{layer[1]}.{OF_A_LAYER[layer[2]]}.{layer[3]}"
        return WEIGHTS.get(name, name)

    def _weight(self, name: str, config: PreTrainedConfig) -> torch.Tensor:
        weight = self._values(name)
        if self.architecture == "llama" and re.search(r"\.attn_[qk]\.", name):
            # llama.cpp rotates pairs of neighbours (0, 1), transformers those of the two halves (0, d/2).
            pairs = weight.view(-1, config.head_dim // 2, 2, *weight.shape[1:])
            weight = pairs.transpose(1, 2).reshape(weight.shape)
        kept = {"F16": torch.float16, "BF16": torch.bfloat16}
        return weight.to(kept.get(self.tensors[name].tensor_type.name, torch.float32))

    def _values(self, name: str) -> torch.Tensor:
        """A tensor's values as float32."""
        import gguf

        tensor = self.tensors[name]
        try:
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise MghError(
                f"{self.path}: {name} is quantised as {tensor.tensor_type.name}, which the package gguf "
                "cannot undo: take a file with another quantisation, such as Q8_0"
            ) from None
        return torch.from_numpy(np.array(values, dtype=np.float32))
