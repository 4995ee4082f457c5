"""Exports that do not name our architecture, as earlier versions wrote them.

vLLM would take them for plain models of their family and pool otherwise, in silence.
"""

import json
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

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


def refuse_unnamed(model: str, revision: str | None = None) -> None:
    """Raises MghError if `model`, a folder or a name on the hub, is an export whose vectors only our model
    gives. Others are none of our business, nor is what cannot be reached."""
    try:
        modules = json.loads(_modules_file(model, revision).read_bytes())
        ours = any(module["type"].startswith("mgh_ds.") for module in modules)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, HfHubHTTPError):
        return
    if ours:
        raise MghError(
            f"{model} was exported by mgh-ds for its own pooling, which vLLM's model of this family does not "
            f"do, and its config.json does not name the architecture {ARCHITECTURE}: export it again with "
            f'this version, or serve it with --hf-overrides \'{{"architectures": ["{ARCHITECTURE}"]}}\''
        )


def _modules_file(model: str, revision: str | None) -> Path:
    if Path(model).exists():
        return Path(model) / "modules.json"
    return Path(hf_hub_download(model, "modules.json", revision=revision))
