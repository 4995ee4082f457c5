"""Loads a transformer and readies it for embeddings: our attention, no dropout, bidirectional where asked."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from mgh_ds.errors import MghError
from mgh_ds.model.attention import IMPLEMENTATION
from mgh_ds.model.config import DType

ENCODERS = ("bert", "roberta", "xlm-roberta")
# Their positions begin after the index of the padding token, and they count them by themselves.
ROBERTA_LIKE = ("roberta", "xlm-roberta")
DECODERS = ("llama", "mistral", "qwen2", "qwen3")


def load_backbone(folder: Path, *, bidirectional: bool = True, dtype: DType = "float32") -> PreTrainedModel:
    """The transformer in `folder`, without any head, in evaluation mode and on the CPU.

    A decoder becomes bidirectional through `config.is_causal`, which transformers' mask functions obey and which is saved with
    the config. All dropout of the backbone is turned off: column sums are defined on the undisturbed attention, and
    what regularises the training is the adapters' dropout.

    Raises MghError for a model type that is not known to work, and for weights that are missing, incomplete or not safetensors.
    """
    config = AutoConfig.from_pretrained(folder)
    if config.model_type not in ENCODERS + DECODERS:
        raise MghError(
            f"{folder} is a {config.model_type!r} model, which mgh-ds does not know; "
            f"it knows {', '.join(ENCODERS + DECODERS)}"
        )
    config.is_causal = config.model_type in DECODERS and not bidirectional
    for name in ("attention_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    model, report = _load_weights(folder, config, dtype)
    if report["missing_keys"] or report["mismatched_keys"]:
        wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        raise MghError(f"{folder} does not fit a {config.model_type} model: missing or misshapen weights {wrong[:5]}")
    return model


def _load_weights(folder: Path, config: PreTrainedConfig, dtype: DType) -> tuple[PreTrainedModel, dict]:
    """The model and transformers' report on it, which is read here instead of printed."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        return AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, dtype),
            attn_implementation=IMPLEMENTATION,
            use_safetensors=True,
            output_loading_info=True,
            **({"add_pooling_layer": False} if config.model_type in ENCODERS else {}),
        )
    except OSError as error:
        raise MghError(f"{folder} holds no usable weights (model.safetensors): {error}") from None
    finally:
        transformers_logging.set_verbosity(verbosity)


def positions(config: PreTrainedConfig, attention_mask: torch.Tensor) -> torch.Tensor | None:
    """Position ids `[B, N]` that count tokens and not padding, so that the side of the padding does not matter.

    None where the model counts for itself.
    """
    if config.model_type in ROBERTA_LIKE:
        return None
    return (attention_mask.long().cumsum(1) - 1).clamp_min(0)


def longest_input(config: PreTrainedConfig) -> int | None:
    """The longest input in tokens that learned positions allow; None for rotary positions, which have no such limit."""
    if config.model_type in DECODERS:
        return None
    taken = config.pad_token_id + 1 if config.model_type in ROBERTA_LIKE else 0
    return int(config.max_position_embeddings) - taken
