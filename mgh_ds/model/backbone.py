"""Loads a transformer and readies it for embeddings: our attention, no dropout, bidirectional where asked."""

import re
from pathlib import Path
from typing import Any

import torch
from ata_attention.transformers import register
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.model.config import DType
from mgh_ds.model.hf_logging import quiet

DECODERS = ("gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3")
# RoBERTa's positions begin after the index of the padding token.
ROBERTA_LIKE = ("roberta", "xlm-roberta")
ENCODERS = ("bert", "distilbert", "electra", "modernbert", *ROBERTA_LIKE)
# Known, and why they are not taken.
REFUSED = {
    "gemma3": "it reads images too; take a text model of that family, of type gemma3_text",
    "mpnet": "its scores hold a bias by relative position, and transformers' MPNet computes its attention "
    "itself instead of calling the registered one, so that there are no column sums",
}

# Above transformers' encoders, if it is not left out.
WITH_POOLER = ("bert", *ROBERTA_LIKE)
DROPOUTS = (
    "attention_dropout",
    "attention_probs_dropout_prob",
    "dropout",
    "embd_pdrop",
    "embedding_dropout",
    "hidden_dropout_prob",
    "mlp_dropout",
    "resid_pdrop",
)

# Positions that are rotary embeddings, not a table with an end; and those with other angles for each kind of
# layer, full and sliding.
ROTARY = (*DECODERS, "modernbert")
ROTARY_BY_LAYER = ("gemma3_text", "modernbert")
# Rotary embeddings whose angles are the same for every batch, and those that change in a batch with a text
# longer than the length under this key.
FIXED_ROPE = ("default", "linear", "llama3", "yarn")
ADAPTIVE_ROPE = ("dynamic", "longrope")

# Weights that a folder may hold beside the backbone's: heads, which embeddings do not use, and tables that
# older versions of transformers saved although they can be computed.
HEADS = re.compile(
    r"^((model|bert|roberta|distilbert|electra)\.)?(lm_head|cls|pooler|classifier|score|qa_outputs)\."
    r"|(^|\.)position_ids$|(^|\.)rotary_emb\.inv_freq$"
)
HEADS_OF = {
    "distilbert": re.compile(r"^(pre_classifier|vocab_transform|vocab_layer_norm|vocab_projector)\."),
    "electra": re.compile(
        r"^(discriminator_predictions|generator_predictions|generator_lm_head|sequence_summary)\."
    ),
    "modernbert": re.compile(r"^(head|decoder)\."),
}
LAYER = re.compile(r"(^|\.)layers?\.(\d+)\.")


def load_backbone(
    folder: Path, *, bidirectional: bool = True, dtype: DType = "float32", num_layers: int | None = None
) -> PreTrainedModel:
    """The transformer in `folder`, without any head, in evaluation mode and on the CPU.

    With `num_layers` the first so many layers stay and the rest are never loaded; the config says so, and a
    saved model keeps them alone.

    A decoder becomes bidirectional through `config.is_causal`, which transformers' mask functions obey and
    which is saved with the config. All dropout of the backbone is turned off: column sums are defined on the
    undisturbed attention, and training is regularised by the adapters' dropout.

    Raises MghError for what `read_config` refuses, for more layers than there are, and for weights that are
    missing, do not fit, are not safetensors, or are left over: what the architecture does not use and is no
    usual head means that the folder holds another model than its config says.
    """
    config = read_config(folder)
    layers = config.num_hidden_layers
    config.is_causal = config.model_type in DECODERS and not bidirectional
    if num_layers is not None:
        _keep_first_layers(config, num_layers, folder)
    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, 0.0)
    model, report = _load(folder, config, dtype)
    misshapen = [name for name, *_ in report["mismatched_keys"]]
    wrong = sorted([*report["missing_keys"], *misshapen])
    if wrong:
        raise MghError(
            f"{folder} holds no complete {config.model_type} model: {wrong[0]} is missing or misshapen"
        )
    dropped = range(config.num_hidden_layers, layers)
    unused = sorted(
        name for name in report["unexpected_keys"] if not _may_be_left(name, dropped, config.model_type)
    )
    if unused:
        raise MghError(
            f"{folder} holds {len(unused)} weights that a {config.model_type} model of its config.json does "
            f"not use, the first being {unused[0]}: without them its vectors would be another model's"
        )
    if config.model_type == "distilbert":  # the one whose attention does not know its layer
        for i, layer in enumerate(model.transformer.layer):
            layer.attention.layer_idx = i
    return model


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration of the transformer in `folder`.

    Raises MghError for a model type that is refused or not known to work, a configuration that transformers
    cannot read or obeys in part only, a model whose code lies in the folder, quantised weights, adapters that
    are not merged, and rotary embeddings of an unknown type.
    """
    path = folder / "config.json"
    described = files.read_json(path)
    kind = described.get("model_type") if isinstance(described, dict) else None
    if kind in REFUSED:
        raise MghError(f"{folder} holds a {kind!r} model, which mgh-ds does not take: {REFUSED[kind]}")
    if kind not in ENCODERS + DECODERS:
        raise MghError(
            f"{folder} holds a {kind!r} model, which mgh-ds does not know; "
            f"it knows {', '.join(ENCODERS + DECODERS)}"
        )
    _refuse_quantised(path, described)
    if "AutoModel" in (described.get("auto_map") or ()):
        raise MghError(
            f"{path}: auto_map says that code in the folder makes the model, which mgh-ds does not run: "
            f"without it the vectors may be another model's. To use it as a plain {kind}, take auto_map out"
        )
    if (folder / "adapter_config.json").exists():
        raise MghError(f"{folder} holds adapters (adapter_config.json): merge them into the weights first")
    if kind in ENCODERS and described.get("is_decoder"):
        raise MghError(f"{path}: is_decoder makes this {kind} causal, which mgh-ds does not support")
    if described.get("position_embedding_type", "absolute") not in (None, "absolute"):
        raise MghError(
            f"{path}: position_embedding_type is {described['position_embedding_type']!r}, not absolute"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, TypeError, AttributeError, KeyError, StrictDataclassError) as error:
        raise MghError(f"{path} is no usable {kind} configuration: {' '.join(str(error).split())}") from None
    if kind in ROBERTA_LIKE and config.pad_token_id is None:
        raise MghError(f"{path} names no pad_token_id, after which the positions of a {kind} begin")
    known = FIXED_ROPE + ADAPTIVE_ROPE
    for name in map(rope_type, ropes(config)):
        if name not in known:
            raise MghError(f"{path}: unknown RoPE type {name!r}; mgh-ds knows {', '.join(known)}")
    _settle_masks(path, config)
    return config


def _refuse_quantised(path: Path, described: dict[str, Any]) -> None:
    for key in ("quantization_config", "compression_config"):
        if described.get(key) is not None:
            how = described[key].get("quant_method") if isinstance(described[key], dict) else None
            raise MghError(
                f"{path}: {key} ({how or 'of an unnamed method'}) says that the weights are quantised, which "
                "mgh-ds does not load: take the model in float32, bfloat16 or float16"
            )


def _settle_masks(path: Path, config: PreTrainedConfig) -> None:
    """Refuses what transformers' masks or layers of these families leave out, and makes a Gemma 3 that its
    authors made bidirectional (EmbeddingGemma) a decoder that was turned so: with the same masks."""
    kind = config.model_type
    if kind == "gemma2" and config.use_bidirectional_attention:
        raise MghError(f"{path}: use_bidirectional_attention is true, which a gemma2's masks do not obey")
    if kind == "gemma3_text" and config.attn_logit_softcapping is not None:
        raise MghError(f"{path}: attn_logit_softcapping is set, which a gemma3_text's layers do not obey")
    if kind == "smollm3" and "sliding_attention" in config.layer_types and not config.use_sliding_window:
        raise MghError(f"{path}: layer_types names sliding_attention, but use_sliding_window is false")
    if kind == "gemma3_text" and config.use_bidirectional_attention:
        # Its window counts the query itself; that of a decoder turned bidirectional does not.
        config.use_bidirectional_attention, config.is_causal = False, False
        config.sliding_window -= 1


def ropes(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """The parameters of a model's rotary embeddings: one set, or one for each kind of layer; none of a model
    with learned positions."""
    if config.model_type not in ROTARY:
        return []
    parameters = config.rope_parameters or {}
    return list(parameters.values()) if config.model_type in ROTARY_BY_LAYER else [parameters]


def rope_type(rope: dict[str, Any]) -> str:
    """The type of rotary embeddings; of a set that differs by layer in a family whose do not, the names of
    these layers."""
    layers = [key for key, value in rope.items() if isinstance(value, dict)]
    return ", ".join(layers) or str(rope.get("rope_type"))


def _may_be_left(name: str, dropped: range, kind: str) -> bool:
    """Whether a weight that the model does not use is a usual head, or of one of the layers left out."""
    layer = LAYER.search(name)
    heads = [HEADS, HEADS_OF[kind]] if kind in HEADS_OF else [HEADS]
    return any(head.search(name) for head in heads) or (layer is not None and int(layer[2]) in dropped)


def _keep_first_layers(config: PreTrainedConfig, count: int, folder: Path) -> None:
    if not 1 <= count <= config.num_hidden_layers:
        raise MghError(
            f"model.num_layers is {count}, but {folder} has {config.num_hidden_layers}: "
            f"1 to {config.num_hidden_layers}"
        )
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):  # one entry a layer
        config.layer_types = config.layer_types[:count]


def _load(folder: Path, config: PreTrainedConfig, dtype: DType) -> tuple[PreTrainedModel, dict]:
    """The model, and transformers' report on what its weights lacked."""
    without_head = {"add_pooling_layer": False} if config.model_type in WITH_POOLER else {}
    try:
        with quiet():
            return AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=getattr(torch, dtype),
                attn_implementation=register(),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # which then stand in the report
                **without_head,
            )
    except (OSError, SafetensorError) as error:
        raise MghError(f"{folder} holds no readable weights in safetensors format: {error}") from error
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise MghError(f"{folder / 'config.json'} describes no {config.model_type} model: {error}") from error


def first_position(config: PreTrainedConfig) -> int:
    """The position of a text's first token."""
    return config.pad_token_id + 1 if config.model_type in ROBERTA_LIKE else 0


def longest_input(config: PreTrainedConfig) -> int | None:
    """The longest input in tokens at which a text has its own vector; None: no limit.

    Learned positions end there. Adaptive rotary embeddings turn otherwise beyond it, for all texts of a batch
    together: a text's vector would depend on its neighbours.
    """
    if config.model_type not in ROTARY:
        return int(config.max_position_embeddings) - first_position(config)
    limits = []
    for rope in ropes(config):
        match rope_type(rope):
            case "dynamic":
                limits.append(int(config.max_position_embeddings))
            case "longrope":
                limits.append(int(rope["original_max_position_embeddings"]))
    return min(limits, default=None)


def check_length(length: int, config: PreTrainedConfig, name: Path | str = "the model") -> None:
    """Raises MghError, in which the model is called `name`, if it takes no texts of `length` tokens."""
    limit = longest_input(config)
    if limit is not None and length > limit:
        why = ""
        if adaptive := [name for name in map(rope_type, ropes(config)) if name in ADAPTIVE_ROPE]:
            why = f"; beyond, its {adaptive[0]} RoPE would make a text's vector depend on its batch"
        raise MghError(f"max_length is {length}, but {name} takes at most {limit} tokens{why}")
