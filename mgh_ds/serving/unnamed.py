"""Exports that do not name our architecture, as earlier versions wrote them.

vLLM would take them for plain models of their family and pool otherwise, in silence.
"""

import json
from pathlib import Path

from mgh_ds.common.errors import MghError
from mgh_ds.model.config import ARCHITECTURE

# What transformers calls the models of our families, and vLLM its own.
PLAIN = (
    "BertModel",
    "DistilBertModel",
    "ElectraModel",
    "Gemma2Model",
    "Gemma3TextModel",
    "LlamaModel",
    "MistralModel",
    "ModernBertModel",
    "Phi3Model",
    "Qwen2Model",
    "Qwen3Model",
    "RobertaModel",
    "SmolLM3Model",
    "XLMRobertaModel",
)


def refuse_unnamed(model: str) -> None:
    """Raises MghError if the folder `model` is an export whose vectors only our model gives. Other folders,
    and what is no folder, are none of our business."""
    path = Path(model) / "modules.json"
    try:
        ours = any(module["type"].startswith("mgh_ds.") for module in json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return
    if ours:
        raise MghError(
            f"{model} was exported by mgh-ds for its own pooling, which vLLM's model of this family does not "
            f"do, and its config.json does not name the architecture {ARCHITECTURE}: export it again with "
            f'this version, or serve it with --hf-overrides \'{{"architectures": ["{ARCHITECTURE}"]}}\''
        )
