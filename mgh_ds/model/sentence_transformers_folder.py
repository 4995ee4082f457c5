"""Reads what sentence-transformers keeps beside a transformer, as fields of our settings.

`modules.json` lists what a text goes through, `1_Pooling/config.json` says how tokens become a vector,
`sentence_bert_config.json` and `tokenizer_config.json` how long a text may be, and
`config_sentence_transformers.json` what is put before a text. Each is honoured to the letter, so that the
vectors are those of sentence-transformers, or refused by name.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.model.backbone import DECODERS, longest_input, read_config
from mgh_ds.model.config import PoolingConfig

MODULES = "modules.json"
DESCRIPTION = "config_sentence_transformers.json"
# The class that it loads for a folder that we exported.
MODULE = "mgh_ds.model.sentence_transformers_module.AtaEmbedder"

# Its poolings that are ours. The sum over √n that one of them takes has the direction of the mean.
POOLINGS = {
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean",
    "cls": "cls",
    "lasttoken": "last",
    "weightedmean": "weighted_mean",
}
# The keys of a pooling that was saved before version 5.
OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

# The transformer's own file has had a name for each kind.
TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_xlm-roberta_config.json",
)
# Options for loading that change no vector but by rounding.
HARMLESS = {"attn_implementation", "dtype", "padding_side", "torch_dtype", "trust_remote_code"}


def read_modules(folder: Path) -> dict[str, Any]:
    """The fields of `Settings` that a folder with a `modules.json` sets.

    Raises MghError for what we cannot do as sentence-transformers does it, and for files that say nothing
    readable.
    """
    pooling = _pooling_folder(folder)
    _check_description(folder)
    _check_transformer(folder)
    config, tokenizer = read_config(folder), read_table(folder / "tokenizer_config.json", missing=True)
    _check_truncation(folder, tokenizer)
    limit = longest_input(config)
    own = min(tokenizer.get("model_max_length") or 10**30, config.max_position_embeddings)
    length = stated_length(folder) or own
    return {
        "pooling": _pooling(pooling / "config.json"),
        # A decoder is causal unless its configuration says otherwise.
        "bidirectional": config.model_type not in DECODERS or getattr(config, "is_causal", True) is False,
        "max_length": min(length, limit or length),
        "prompt": default_prompt(folder),
        "append_eos": False,
    }


def stated_length(folder: Path) -> int | None:
    """The longest input in tokens that the folder's authors chose, if they chose one. Raises MghError for
    what is no length."""
    path, said = _transformer(folder)
    length = said.get("max_seq_length")
    if length is not None and (not isinstance(length, int) or length < 1):
        raise MghError(f"{path}: max_seq_length is {length!r}, which is no whole number of 1 or more")
    return length


def default_prompt(folder: Path) -> str:
    """What precedes each text that is encoded under no other prompt.

    Raises MghError for a default that is not among the prompts, and for vectors that are cut.
    """
    path = folder / DESCRIPTION
    described = read_table(path, missing=True)
    if described.get("truncate_dim") is not None:
        raise MghError(f"{path}: truncate_dim cuts the vectors, which mgh-ds does not do")
    prompts, name = described.get("prompts") or {}, described.get("default_prompt_name")
    if name is None:
        return ""
    if not isinstance(prompts, dict) or not isinstance(prompts.get(name), str):
        raise MghError(f"{path}: default_prompt_name is {name!r}, but prompts holds no such prompt")
    return prompts[name]


def named_prompts(folder: Path) -> dict[str, str]:
    """What may be put before a text, by its name; an empty table where the folder names none."""
    prompts = read_table(folder / DESCRIPTION, missing=True).get("prompts")
    named = prompts.items() if isinstance(prompts, dict) else ()
    return {name: prompt for name, prompt in named if isinstance(prompt, str)}


def pooling_files(folder: Path) -> Iterable[Path]:
    """The configurations of the poolings that `modules.json` names; none where there is no such file.

    Raises MghError for a file that lists no modules.
    """
    if (folder / MODULES).exists():
        yield from (
            folder / place / "config.json" for kind, place in listed_modules(folder) if kind == "Pooling"
        )


def listed_modules(folder: Path) -> list[tuple[str, str]]:
    """Class and subfolder of each module, in their order; a class of others has its full name."""
    path = folder / MODULES
    listed = files.read_json(path)
    try:
        found = [(entry["type"], entry["path"]) for entry in listed]
    except (TypeError, KeyError):
        raise MghError(f"{path} lists no modules with type and path") from None
    if not all(isinstance(kind, str) and isinstance(place, str) for kind, place in found):
        raise MghError(f"{path} lists modules whose type and path are no texts")
    return [
        (kind.rsplit(".", 1)[1] if kind.startswith("sentence_transformers.") else kind, place)
        for kind, place in found
    ]


def _check_description(folder: Path) -> None:
    """Raises MghError for a model that gives no embeddings, or whose embeddings are not for the cosine."""
    path = folder / DESCRIPTION
    described = read_table(path, missing=True)
    kind, similarity = described.get("model_type"), described.get("similarity_fn_name")
    if kind not in (None, "SentenceTransformer"):
        raise MghError(f"{path}: model_type is {kind!r}, which gives no embeddings as mgh-ds means them")
    # At unit length the dot product is the cosine, and the distance ranks as it does.
    same = ("cosine", "dot", "euclidean") if "Normalize" in dict(listed_modules(folder)) else ("cosine",)
    if similarity not in (None, *same):
        raise MghError(
            f"{path}: similarity_fn_name is {similarity!r}, but mgh-ds compares vectors of unit length, "
            "by their cosine"
        )


def _pooling_folder(folder: Path) -> Path:
    """The pooling's folder. Raises MghError unless the modules are transformer, pooling and, at will,
    normalisation."""
    modules = listed_modules(folder)
    path = folder / MODULES
    for place, (kind, where) in enumerate(modules):
        if kind not in (["Transformer"], ["Pooling"], ["Normalize"])[min(place, 2)]:
            raise MghError(
                f"{path}: module {place} is {where or kind} ({kind}), which mgh-ds does not apply; it knows "
                "a Transformer, a Pooling and a Normalize, in this order. To use the transformer alone, copy "
                f"the folder without {MODULES}"
            )
    if len(modules) < 2:
        raise MghError(f"{path} names no Pooling, so its vectors are not of texts but of tokens")
    if modules[0][1]:
        raise MghError(f"{path}: the transformer is in {modules[0][1]}, but mgh-ds reads {folder} itself")
    return folder / modules[1][1]


def _pooling(path: Path) -> PoolingConfig:
    said = read_table(path)
    modes = (
        said.get("pooling_mode") or [mode for key, mode in OLD_POOLINGS.items() if said.get(key)] or "mean"
    )
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise MghError(
            f"{path}: pooling by {' and '.join(map(str, modes))}; mgh-ds knows one of {', '.join(POOLINGS)}"
        )
    if said.get("include_prompt", True) is not True:
        raise MghError(
            f"{path}: include_prompt is false, which leaves out the opening token of texts after a "
            "prompt and of no others: mgh-ds does not do so"
        )
    return PoolingConfig(method=POOLINGS[modes[0]], include_instruction=True)


def _transformer(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The transformer's own file and what it says; nothing where there is no such file."""
    named = [folder / name for name in TRANSFORMER_FILES]
    path = next((path for path in named if path.exists()), named[0])
    return path, read_table(path, missing=True)


def _check_transformer(folder: Path) -> None:
    """Raises MghError for what would change what the transformer reads or gives."""
    path, said = _transformer(folder)
    for key in (
        "model_args",
        "model_kwargs",
        "tokenizer_args",
        "processor_kwargs",
        "config_args",
        "config_kwargs",
    ):
        if strange := sorted((said.get(key) or {}).keys() - HARMLESS):
            raise MghError(f"{path}: {key} names {strange[0]}, which mgh-ds does not heed")
    wanted = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
    for key, value in wanted.items():
        if said.get(key, value) != value:
            raise MghError(f"{path}: {key} is {said[key]!r}; mgh-ds knows {value!r}")
    if said.get("processing_kwargs"):
        raise MghError(f"{path}: processing_kwargs changes how texts are read, which mgh-ds does not heed")
    if "message" in (said.get("modality_config") or {}):
        raise MghError(f"{path}: modality_config puts texts into a chat template, which mgh-ds does not do")
    if said.get("do_lower_case") and not _lowers(folder):
        raise MghError(f"{path}: do_lower_case is true, but the tokenizer keeps capital letters")


def _check_truncation(folder: Path, tokenizer: dict[str, Any]) -> None:
    """Raises MghError for a tokenizer that cuts the beginning of a text that is too long."""
    cuts = (read_table(folder / "tokenizer.json", missing=True).get("truncation") or {}).get(
        "direction", "Right"
    )
    side = tokenizer.get("truncation_side", cuts)
    if side.lower() != "right":
        raise MghError(
            f"{folder}: the tokenizer's truncation_side is {side!r}, but mgh-ds cuts a text at its end"
        )


def _lowers(folder: Path) -> bool:
    """Whether the tokenizer makes capital letters small by itself."""
    normaliser = read_table(folder / "tokenizer.json").get("normalizer") or {}
    parts = normaliser.get("normalizers", [normaliser])
    return any(part.get("type") == "Lowercase" or part.get("lowercase") is True for part in parts)


def read_table(path: Path, *, missing: bool = False) -> dict[str, Any]:
    """A JSON object; with `missing` an absent file is an empty one."""
    if missing and not path.exists():
        return {}
    content = files.read_json(path)
    if not isinstance(content, dict):
        raise MghError(f"{path} holds no table of keys")
    return content
