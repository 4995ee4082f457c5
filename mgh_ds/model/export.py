"""Writes a trained model as a folder that `Encoder`, sentence-transformers and transformers can load."""

import contextlib
import importlib.metadata
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.common.extras import need
from mgh_ds.model.backbone import DECODERS
from mgh_ds.model.card import onnx_usage
from mgh_ds.model.config import ARCHITECTURE
from mgh_ds.model.embedder import EmbeddingModel, settings_of
from mgh_ds.model.hf_logging import quiet
from mgh_ds.model.onnx_graph import write_graphs
from mgh_ds.model.sentence_transformers_folder import DESCRIPTION, MODULE, MODULES
from mgh_ds.model.settings import write_settings
from mgh_ds.model.standard_modules import obstacle, write_modules, write_transformer
from mgh_ds.model.tokens import Tokenizer

# sentence-transformers 6 sees to it before it loads a model.
BIDIRECTIONAL = {
    "specifier": ">=5.2",
    "reason": "earlier versions leave is_causal of config.json out, and attention would be causal",
}


def export(
    model: EmbeddingModel,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    card: str,
    prompts: Mapping[str, str] | None = None,
    replace: bool = False,
    onnx: bool = False,
    int8: bool = False,
) -> None:
    """Writes `model`, its adapters merged, to the new folder `folder`; `card` becomes its README.md.

    The folder holds a plain transformers model (safetensors, config, tokenizer), our settings, and the files
    by which sentence-transformers knows it: its own modules, or ours where `why_ours` says so. `prompts` are
    what it puts before a text, by name; "query" and "document" are those of its `encode_query` and
    `encode_document`. With `onnx` it holds the model as an ONNX graph too, with `int8` also one whose linear
    layers are quantised, and the card says how far they agree with torch (`onnx_graph`). `model` is not
    changed. Raises MghError if the folder exists, unless `replace` is true, and for what `write_graphs`
    refuses.
    """
    if int8 and not onnx:
        raise MghError("int8 quantises the ONNX graph: ask for onnx as well")
    if onnx:
        need("onnx", "an ONNX graph")
    reason = why_ours(model, tokenizer)
    with files.new_folder(folder, replace=replace) as temporary:
        write_model(model, tokenizer, temporary)
        if reason is None:
            config = model.backbone.config
            _name_architecture(temporary, type(_unwrapped(model.backbone)).__name__)
            write_transformer(temporary, tokenizer, config)
            write_modules(temporary, model.pooling.config, model.dimensions, config.hidden_size)
        else:
            files.write_json(temporary / MODULES, [{"idx": 0, "name": "0", "path": "", "type": MODULE}])
        files.write_json(temporary / DESCRIPTION, _description(model, tokenizer, prompts or {}))
        if onnx:
            card += onnx_usage(write_graphs(temporary, int8=int8))
        files.write_text(temporary / "README.md", card)


def why_ours(model: EmbeddingModel, tokenizer: Tokenizer) -> str | None:
    """Why an export of `model` holds our module, which sentence-transformers 6 imports only if it is told to;
    None where its own modules give the same vectors."""
    reason = obstacle(model.pooling.config, use_instructions=tokenizer.use_instructions)
    if reason is None:
        with tempfile.TemporaryDirectory() as trial:
            tokenizer.save(Path(trial))
            try:
                write_transformer(Path(trial), tokenizer, model.backbone.config)
            except MghError as error:
                return str(error)
    return reason


def _description(model: EmbeddingModel, tokenizer: Tokenizer, named: Mapping[str, str]) -> dict[str, Any]:
    """What sentence-transformers keeps for the model as a whole."""
    default = tokenizer.prompt if tokenizer.use_instructions else ""
    # Under these two names it looks before it takes the default.
    prompts = dict.fromkeys(("query", "document"), "" if named else default)
    if tokenizer.use_instructions:
        prompts |= named
    names = (name for name in ("document", *prompts) if prompts[name] == default)
    described: dict[str, Any] = {
        "model_type": "SentenceTransformer",
        "__version__": _versions(),
        "prompts": prompts,
        "default_prompt_name": next(names) if default else None,
        "similarity_fn_name": "cosine",
    }
    config = model.backbone.config
    if config.model_type in DECODERS and not config.is_causal:
        described["requirements"] = {"transformers": BIDIRECTIONAL}
    return described


def _versions() -> dict[str, str]:
    """What sentence-transformers wants to know of; itself among them where it is installed."""
    distributions = {
        "sentence_transformers": "sentence-transformers",
        "transformers": "transformers",
        "pytorch": "torch",
    }
    found = {}
    for name, distribution in distributions.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(distribution)
    return found


def write_model(model: EmbeddingModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes what `Encoder.from_pretrained` reads to an existing folder: model, tokenizer and settings."""
    with quiet():
        try:
            _unwrapped(model.backbone).save_pretrained(folder, state_dict=merged_weights(model.backbone))
        except SafetensorError as error:
            raise MghError(f"the model could not be written to {folder}: {error}") from None
    tokenizer.save(folder)
    write_settings(settings_of(model, tokenizer), folder)
    _name_architecture(folder)


def _name_architecture(folder: Path, *others: str) -> None:
    """Has servers that go by the architecture find ours, else one of `others`, who find in the folder how to
    pool. With none a server that does not know ours refuses the folder instead of pooling otherwise."""
    path = folder / "config.json"
    files.write_json(path, files.read_json(path) | {"architectures": [ARCHITECTURE, *others]})


@torch.no_grad()
def merged_weights(backbone: nn.Module) -> dict[str, Tensor]:
    """The backbone's weights on the CPU, under their own names, adapters added: `W + (alpha / rank)·B·A`.

    Nothing is merged in place, so that training can go on from exactly the weights that it had.
    """
    plain = _unwrapped(backbone)
    # PEFT puts a layer `x` into `x.base_layer` and its adapter into `x.lora_A`, `x.lora_B` beside it.
    merged = {
        name.replace(".base_layer.", "."): tensor.cpu()
        for name, tensor in plain.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in plain.named_modules():
        if hasattr(layer, "get_delta_weight"):
            weight = layer.base_layer.weight
            delta = sum(layer.get_delta_weight(adapter).float() for adapter in layer.active_adapters)
            merged[f"{name}.weight"] = (weight.float() + delta).to(weight.dtype).cpu()
    return merged


def _unwrapped(backbone: Any) -> Any:
    """The transformers model, taken out of PEFT's wrapper if it is in one."""
    return backbone.get_base_model() if hasattr(backbone, "get_base_model") else backbone
