"""GGUF files as backbones: each is dequantised once, into a folder of the cache that all others can load.

The folder holds the causal model with its head, as safetensors, the tokenizer, and in `gguf.json` which file
it was made from. Four bytes a weight that was quantised, so that nothing is rounded a second time.
"""

import functools
import sys
from pathlib import Path
from typing import Any

from mgh_ds.common import files
from mgh_ds.common.cache import cache_folder, made_once
from mgh_ds.common.checksums import checksum
from mgh_ds.common.errors import MghError

SUFFIX = ".gguf"
ORIGIN = "gguf.json"
PLAIN = ("F32", "F16", "BF16")  # types that are no quantisation
# Raise it when the same file would become other vectors, so that an older folder is not taken for a new one.
VERSION = 1


def is_gguf(path: Path) -> bool:
    """Whether `path` is called as GGUF files are, there or not; in capitals too."""
    return path.suffix.lower() == SUFFIX


def find_gguf(path: Path) -> Path | None:
    """The GGUF file that `path` is, or, of a folder without safetensors, the one that lies in it.

    Raises MghError if several lie there.
    """
    if is_gguf(path) and path.is_file():
        return path
    if not path.is_dir() or next(path.glob("*.safetensors"), None):
        return None
    found = sorted(file for file in path.iterdir() if is_gguf(file) and file.is_file())
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise MghError(f"{path} holds {len(found)} GGUF files ({names}): name one of them")
    return found[0] if found else None


def folder_of(path: Path, sha256: str) -> Path:
    """Where in the cache the dequantised model of the file `path` stands, or will."""
    return cache_folder() / "gguf" / f"{path.stem}-{sha256[:16]}-v{VERSION}"


def dequantised(path: Path) -> Path:
    """The folder of the model in the GGUF file `path`, made at the first call; a line on standard error
    says what became of its weights.

    The extra gguf is needed for the first call alone. Raises MghError for what `GgufFile` and
    `gguf_tokenizer` refuse, and if the folder cannot be written.
    """
    digest = checksum(path)
    return announced(made_once(folder_of(path, digest), lambda folder: _convert(path, digest, folder)))


def announced(folder: Path) -> Path:
    """`folder`, which `dequantised` has made. Each process says once what it is, of a group rank 0 alone."""
    group = sys.modules.get("torch.distributed")  # not loaded here: it is slow, and loading needs none
    if group is None or not (group.is_available() and group.is_initialized() and group.get_rank()):
        _say(folder)
    return folder


@functools.cache
def _say(folder: Path) -> None:
    found = files.read_json(folder / ORIGIN)
    quantised = [name for name in found["types"] if name not in PLAIN]
    what = f"weights dequantised from {', '.join(quantised)}" if quantised else "no weight is quantised"
    print(f"{found['file']}: {what}; the model is in {folder}", file=sys.stderr)


def origin(folder: Path) -> dict[str, Any] | None:
    """For a folder of `dequantised`: {"file": name, "sha256": …, "version": …, "types": tensors by
    type}. None for any other, such as a copy of it, which may have been changed since."""
    if folder.resolve().parent != (cache_folder() / "gguf").resolve() or not (folder / ORIGIN).exists():
        return None
    return files.read_json(folder / ORIGIN)


def _convert(path: Path, digest: str, folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    from mgh_ds.model.gguf_file import GgufFile
    from mgh_ds.model.gguf_tokenizer import gguf_tokenizer

    file = GgufFile(path)
    config = file.config()
    file.check_weights(config)
    tokenizer = gguf_tokenizer(file)
    weights = file.weights(config)
    config.architectures = [f"{type(config).__name__.removesuffix('Config')}ForCausalLM"]
    config.dtype = weights["model.embed_tokens.weight"].dtype
    try:
        with files.new_folder(folder) as new:
            config.save_pretrained(new)
            GenerationConfig.from_model_config(config).save_pretrained(new)
            tokenizer.save_pretrained(new)
            save_file(weights, new / "model.safetensors", metadata={"format": "pt"})
            what = {"file": path.name, "sha256": digest, "version": VERSION, "types": file.types}
            files.write_json(new / ORIGIN, what)
    except (OSError, SafetensorError) as error:
        raise MghError(
            f"{path} cannot be dequantised into {folder.parent} ({error}): make room there, or set "
            "XDG_CACHE_HOME"
        ) from error
