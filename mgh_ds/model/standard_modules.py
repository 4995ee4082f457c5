"""An export said in sentence-transformers' own modules: a Transformer, a Pooling and a Normalize.

Such a folder needs neither this package nor `trust_remote_code` where it is loaded. What these modules cannot
say, `obstacle` names: the folder then holds the one module of ours (`sentence_transformers_module`).
`mgh_ds.json` beside them stays what `Encoder` reads, and `check_exported` sees that the two still agree.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedConfig

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.model.config import PoolingConfig
from mgh_ds.model.sentence_transformers_folder import MODULE, MODULES, POOLINGS, listed_modules, read_table
from mgh_ds.model.token_weights import POOLINGS as TOKEN_WEIGHTS
from mgh_ds.model.tokens import Tokenizer

# Under these names every version of sentence-transformers finds them, and so do servers that read its files.
TYPE = "sentence_transformers.models."
# Our poolings under its names; of the two that are our mean, the mean.
MODES = {ours: theirs for theirs, ours in reversed(POOLINGS.items())}

# Repetitions of a few words that make a text too long, for a length that may be large.
LONG = 4096


def obstacle(pooling: PoolingConfig, *, use_instructions: bool) -> str | None:
    """Why a Pooling of sentence-transformers cannot do as these settings say; None if it can.

    It knows `include_prompt: false`, but means by it as many tokens as the prompt has alone: BOS or CLS among
    them, and the blank at the prompt's end, which most tokenizers make one token with the text's first word.
    """
    if TOKEN_WEIGHTS[pooling.method].reads_attention:
        return f"{pooling.method} pooling weighs tokens by the attention that they receive"
    if pooling.method not in MODES:
        return f"sentence-transformers knows no {pooling.method} pooling"
    return left_out(pooling, use_instructions=use_instructions)


def left_out(pooling: PoolingConfig, *, use_instructions: bool) -> str | None:
    """Which tokens of a text are not pooled, in words; None if all may be."""
    if pooling.method in ("cls", "last"):  # one token of the whole input, whatever may be pooled
        return None
    if use_instructions and not pooling.include_instruction:
        return "instructions are left out of the pooling (`include_instruction: false`), word by word"
    if not pooling.include_bos:
        return "the opening token is left out of the pooling (`include_bos: false`)"
    return None


def write_modules(folder: Path, pooling: PoolingConfig, dimensions: int | None, hidden_size: int) -> None:
    """Writes `modules.json` and what its modules read to a folder for which there is no `obstacle`.

    A cut to `dimensions` is a Dense whose weight `[dimensions, hidden_size]` has ones on its diagonal: the
    `truncate_dim` of sentence-transformers would come after the Normalize, and leave vectors that are
    shorter than 1.
    """
    layout = _layout(dimensions)
    entries = [
        {"idx": place, "name": str(place), "path": path, "type": TYPE + kind}
        for place, (kind, path) in enumerate(layout)
    ]
    files.write_json(folder / MODULES, entries)
    for kind, path in layout:
        if kind == "Pooling":
            files.write_json(folder / path / "config.json", _pooling_said(pooling, hidden_size))
        if kind == "Dense":
            assert dimensions is not None
            files.write_json(folder / path / "config.json", _cut_said(dimensions, hidden_size))
            save_file(
                {"linear.weight": torch.eye(dimensions, hidden_size)}, folder / path / "model.safetensors"
            )


def write_transformer(folder: Path, tokenizer: Tokenizer, config: PreTrainedConfig) -> None:
    """Writes what a Transformer reads beside the model: its own file, and a tokenizer that puts around a text
    by itself what `tokenizer` does. Raises MghError for one that cannot be made to."""
    said: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": "token_embeddings",
        "max_seq_length": tokenizer.max_length,
    }
    if getattr(config, "attn_logit_softcapping", None):
        # Of transformers' attentions, SDPA, the default, leaves the cap out.
        said["model_kwargs"] = {"attn_implementation": "eager"}
    files.write_json(folder / "sentence_bert_config.json", said)
    backend = tokenizer.backend
    if tokenizer.appends:
        _close(folder / "tokenizer.json", backend.eos_token, backend.eos_token_id)
    path = folder / "tokenizer_config.json"
    changes = {"model_max_length": tokenizer.max_length, "padding_side": "right"}
    if backend.pad_token is None:  # padding is masked, whatever its token
        changes["pad_token"] = backend.eos_token
    files.write_json(path, read_table(path) | changes)
    _check_written(folder, tokenizer)


def check_exported(
    folder: Path, pooling: PoolingConfig, *, use_instructions: bool, dimensions: int | None
) -> None:
    """Raises MghError if the `modules.json` of an exported folder, or what it names, does not do as the
    settings say: they know nothing of what sentence-transformers put there since. A further normalisation may
    stand behind."""
    if not (folder / MODULES).exists():
        return
    listed = listed_modules(folder)
    layout = [(MODULE, "")]
    if obstacle(pooling, use_instructions=use_instructions) is None and listed[:1] != layout:
        layout = _layout(dimensions)
    for place, (kind, where) in enumerate(listed):
        if kind != (layout[place][0] if place < len(layout) else "Normalize"):
            raise MghError(
                f"{folder / MODULES}: module {place} is {where or kind} ({kind}), which mgh-ds does not "
                "apply to a model that it exported"
            )
        if kind == "Transformer" and where:
            raise MghError(f"{folder / MODULES}: the transformer is in {where}, not in {folder} itself")
        if kind == "Pooling":
            _check_said(folder / where / "config.json", _pooling_said(pooling))
        if kind == "Dense":
            assert dimensions is not None
            _check_cut(folder / where, dimensions)
    if len(listed) < len(layout):
        raise MghError(
            f"{folder / MODULES} lacks the {layout[len(listed)][0]} of a model that mgh-ds exported"
        )


def _layout(dimensions: int | None) -> list[tuple[str, str]]:
    """Class and subfolder of each module."""
    kinds = ["Transformer", "Pooling", *([] if dimensions is None else ["Dense"]), "Normalize"]
    return [(kind, f"{place}_{kind}" if place else "") for place, kind in enumerate(kinds)]


def _pooling_said(pooling: PoolingConfig, hidden_size: int | None = None) -> dict[str, Any]:
    size = {} if hidden_size is None else {"embedding_dimension": hidden_size}
    return size | {"pooling_mode": MODES[pooling.method], "include_prompt": True}


def _cut_said(dimensions: int, hidden_size: int | None = None) -> dict[str, Any]:
    size = {} if hidden_size is None else {"in_features": hidden_size}
    activation = "torch.nn.modules.linear.Identity"
    return size | {"out_features": dimensions, "bias": False, "activation_function": activation}


def _check_said(path: Path, wanted: dict[str, Any]) -> None:
    said = read_table(path)
    for key, value in wanted.items():
        if said.get(key) != value:
            raise MghError(
                f"{path}: {key} is {said.get(key)!r}, but mgh-ds exported the model with {value!r}: export "
                "it again, or take mgh_ds.json away to have it read as sentence-transformers reads it"
            )


def _check_cut(folder: Path, dimensions: int) -> None:
    _check_said(folder / "config.json", _cut_said(dimensions))
    path = folder / "model.safetensors"
    try:
        with safe_open(path, "pt") as weights:
            names = list(weights.keys())
            weight = weights.get_tensor("linear.weight")
    except (OSError, SafetensorError) as error:
        raise MghError(f"{path} holds no readable weights of a cut: {error}") from None
    if names != ["linear.weight"] or not torch.equal(weight, torch.eye(*weight.shape, dtype=weight.dtype)):
        raise MghError(f"{path} does more than to keep the first {dimensions} dimensions of an embedding")


def _close(path: Path, token: str, number: int) -> None:
    """Has the tokenizer in a tokenizer.json put `token` at the end of each text, behind what it puts there.

    Pairs of texts, which are embedded by nobody, stay as they are.
    """
    described = read_table(path)
    before = described.get("post_processor")
    steps = before["processors"] if before and before["type"] == "Sequence" else [before] if before else []
    # One template does it all: a second would not take what the first made of a text for one piece.
    template = next((step for step in steps if step["type"] == "TemplateProcessing"), None)
    if template is None:
        first, second = ({"Sequence": {"id": name, "type_id": kind}} for kind, name in enumerate("AB"))
        template = {
            "type": "TemplateProcessing",
            "single": [first],
            "pair": [first, second],
            "special_tokens": {},
        }
        steps = [*steps, template]
    template["single"].append({"SpecialToken": {"id": token, "type_id": 0}})
    template["special_tokens"][token] = {"id": token, "ids": [number], "tokens": [token]}
    described["post_processor"] = {"type": "Sequence", "processors": steps}
    files.write_json(path, described)


def _check_written(folder: Path, tokenizer: Tokenizer) -> None:
    """Reads the tokenizer in `folder` as sentence-transformers will."""
    written = Tokenizer.from_pretrained(folder, max_length=tokenizer.max_length, append_eos=False).backend
    texts = ["a", "", " A text, " + "and another. " * min(tokenizer.max_length, LONG)]
    batch = tokenizer.tokenize_after([""] * len(texts), texts)
    wanted = [ids.tolist() for ids in batch.unpacked(batch.input_ids)]
    if written.pad_token is None or written(texts, truncation=True)["input_ids"] != wanted:
        raise MghError("the tokenizer cannot be written so that transformers puts the same around a text")
