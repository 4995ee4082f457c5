"""What a model is made of, to the byte: a folder may hold other weights tomorrow under the same name."""

import os
from collections.abc import Sequence
from pathlib import Path

from mgh_ds.common import files
from mgh_ds.common.checksums import checksum
from mgh_ds.common.differences import differences
from mgh_ds.common.errors import MghError
from mgh_ds.model import gguf_folder
from mgh_ds.model.config import Backend
from mgh_ds.model.weights import DECISIVE, TINY, resolve_model, weight_files

Fingerprint = dict[str, str]
"""File → its SHA-256; or "recipe" → how the model is made, and "gguf" → the SHA-256 of the file it is made
of."""

# Of the folders that modules.json names, such as 1_Pooling.
OF_A_MODULE = ("*.json", "*.safetensors", "*.bin")


def fingerprint(name_or_path: str, backend: Backend = "torch") -> Fingerprint:
    """The fingerprint of the model that `resolve_model` finds, with the graph where `backend` runs one. A
    `tiny-random/<family>` is known by its recipe, and a GGUF file by its own SHA-256: the files that these
    are written to depend on the libraries' versions, their vectors do not.

    Raises MghError if there is no such model.
    """
    folder = resolve_model(name_or_path)
    if name_or_path.startswith(TINY) and not Path(name_or_path).is_dir():
        from mgh_ds.model.tiny import VERSION

        return {"recipe": f"{name_or_path}, version {VERSION}"}
    if (origin := gguf_folder.origin(folder)) is not None:
        return {"gguf": origin["sha256"], "recipe": f"dequantised, version {origin['version']}"}
    found = [*_weights(folder), *_descriptions(folder), *_graph(folder, backend)]
    return {name: checksum(folder / name) for name in found}


def agreed(found: Sequence[Fingerprint], model: str) -> Fingerprint:
    """The fingerprint that each machine found, rank 0's first. Raises MghError, which begins with `model`, if
    another than rank 0's would load other files under the same name."""
    first, *others = found
    for other in others:
        if different := differences(first, other):
            raise MghError(
                f"{model} is not the same on all machines; differing: {'; '.join(map(str, different))}"
            )
    return first


def _weights(folder: Path) -> list[str]:
    """The files that transformers takes the weights from; a file of another layout beside them, such as
    Mistral's `consolidated.safetensors`, is none. Which one is missing, loading says."""
    return [os.path.relpath(path, folder) for path in weight_files(folder) if path.is_file()]


def _graph(folder: Path, backend: Backend) -> list[str]:
    """The files of the graph that `backend` runs; which one is missing, loading says."""
    if backend == "torch":
        return []
    from mgh_ds.model.onnx_model import FILES

    graph = FILES[backend]
    return [name for name in (graph, f"{graph}.data") if (folder / name).is_file()]


def _descriptions(folder: Path) -> list[str]:
    found = [path.name for pattern in DECISIVE for path in sorted(folder.glob(pattern))]
    modules = files.read_json(folder / "modules.json") if "modules.json" in found else []
    parts = {
        f"{module['path']}/{part.name}"
        for module in (modules if isinstance(modules, list) else [])
        if isinstance(module, dict) and module.get("path")
        for pattern in OF_A_MODULE
        for part in (folder / module["path"]).glob(pattern)
    }
    return [*found, *sorted(parts)]
