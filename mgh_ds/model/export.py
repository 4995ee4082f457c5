"""Writes a trained model as a folder that `Encoder`, sentence-transformers and plain transformers can load."""

import importlib.metadata
from pathlib import Path

import torch
from torch import Tensor, nn

from mgh_ds import files
from mgh_ds.model.embedder import EmbeddingModel, settings_of
from mgh_ds.model.settings import write_settings
from mgh_ds.model.tokens import Tokenizer

# Where sentence-transformers finds the class that pools as we do.
MODULE = "mgh_ds.model.sentence_transformers_module.AtaEmbedder"


def export(model: EmbeddingModel, tokenizer: Tokenizer, folder: Path, *, card: str) -> None:
    """Writes `model` with its adapters merged to the new folder `folder`; `card` becomes its README.md.

    The folder holds a plain transformers model (safetensors, config, tokenizer), our settings, and the files by which
    sentence-transformers recognises it. `model` is not changed. Raises MghError if the folder exists.
    """
    backbone = _without_wrapper(model.backbone)
    with files.new_folder(folder) as temporary:
        backbone.save_pretrained(temporary, state_dict=merged_weights(model.backbone))
        tokenizer.save(temporary)
        write_settings(settings_of(model, tokenizer), temporary)
        files.write_json(temporary / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": MODULE}])
        versions = {
            name.replace("-", "_"): importlib.metadata.version(name) for name in ("sentence-transformers", "transformers")
        }
        files.write_json(
            temporary / "config_sentence_transformers.json", {"__version__": versions, "similarity_fn_name": "cosine"}
        )
        files.write_text(temporary / "README.md", card)


def _without_wrapper(backbone: nn.Module) -> nn.Module:
    """The transformers model, taken out of PEFT's wrapper if it is in one."""
    return backbone.get_base_model() if hasattr(backbone, "get_base_model") else backbone


@torch.no_grad()
def merged_weights(backbone: nn.Module) -> dict[str, Tensor]:
    """The backbone's weights on the CPU, under their own names, with `W + (alpha / rank)·B·A` where there is an adapter.

    Nothing is merged in place, so that training can go on from the exact weights that it had.
    """
    weights: dict[str, Tensor] = {}
    for name, module in _without_wrapper(backbone).named_modules():
        adapted = hasattr(module, "get_delta_weight")
        if ".lora_" in name or name.endswith(".base_layer"):
            continue
        source = module.base_layer if adapted else module
        for key, value in [*source.named_parameters(recurse=False), *_persistent_buffers(source)]:
            weights[f"{name}.{key}"] = value.detach().cpu()
        if adapted:
            weight = source.weight
            for adapter in module.active_adapters:
                weight = weight.float() + module.get_delta_weight(adapter).float()
            weights[f"{name}.weight"] = weight.to(source.weight.dtype).cpu()
    return weights


def _persistent_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    persistent = module.state_dict(keep_vars=True)
    return [(key, value) for key, value in module.named_buffers(recurse=False) if key in persistent]
