"""Loads a transformer and readies it for embeddings: our attention, no dropout, bidirectional where asked."""

from pathlib import Path

import torch
from ata_attention.transformers import register
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.model.config import DType
from mgh_ds.model.hf_logging import quiet

DECODERS = ("llama", "mistral", "qwen2", "qwen3")
# RoBERTa's positions begin after the index of the padding token.
ROBERTA_LIKE = ("roberta", "xlm-roberta")
ENCODERS = ("bert", *ROBERTA_LIKE)


def load_backbone(
    folder: Path, *, bidirectional: bool = True, dtype: DType = "float32", num_layers: int | None = None
) -> PreTrainedModel:
    """The transformer in `folder`, without any head, in evaluation mode and on the CPU.

    With `num_layers` the first so many layers stay and the rest are never loaded; the config says so, and a
    saved model keeps them alone.

    A decoder becomes bidirectional through `config.is_causal`, which transformers' mask functions obey and
    which is saved with the config. All dropout of the backbone is turned off: column sums are defined on the
    undisturbed attention, and training is regularised by the adapters' dropout.

    Raises MghError for a model type that is not known to work, for more layers than there are, and for
    weights that are missing, do not fit, or are not safetensors.
    """
    described = files.read_json(folder / "config.json")
    kind = described.get("model_type") if isinstance(described, dict) else None
    if kind not in ENCODERS + DECODERS:
        raise MghError(
            f"{folder} holds a {kind!r} model, which mgh-ds does not know; "
            f"it knows {', '.join(ENCODERS + DECODERS)}"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise MghError(f"{folder / 'config.json'} is no usable {kind} configuration: {error}") from None
    config.is_causal = config.model_type in DECODERS and not bidirectional
    if num_layers is not None:
        _keep_first_layers(config, num_layers, folder)
    for name in ("attention_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    model, report = _load(folder, config, dtype)
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if wrong:
        raise MghError(
            f"{folder} holds no complete {config.model_type} model: {wrong[0]} is missing or misshapen"
        )
    return model


def _keep_first_layers(config: PreTrainedConfig, count: int, folder: Path) -> None:
    if not 1 <= count <= config.num_hidden_layers:
        raise MghError(
            f"model.num_layers is {count}, but {folder} has {config.num_hidden_layers}: "
            f"1 to {config.num_hidden_layers}"
        )
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):  # Qwen's: one entry a layer
        config.layer_types = config.layer_types[:count]


def _load(folder: Path, config: PreTrainedConfig, dtype: DType) -> tuple[PreTrainedModel, dict]:
    """The model, and transformers' report on what its weights lacked."""
    without_head = {"add_pooling_layer": False} if config.model_type in ENCODERS else {}
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
                **without_head,
            )
    except (OSError, SafetensorError) as error:
        raise MghError(f"{folder} holds no readable weights in safetensors format: {error}") from error


def first_position(config: PreTrainedConfig) -> int:
    """The position of a text's first token."""
    return config.pad_token_id + 1 if config.model_type in ROBERTA_LIKE else 0


def longest_input(config: PreTrainedConfig) -> int | None:
    """The longest input in tokens that learned positions allow; None for rotary positions: no limit."""
    if config.model_type in DECODERS:
        return None
    return int(config.max_position_embeddings) - first_position(config)
