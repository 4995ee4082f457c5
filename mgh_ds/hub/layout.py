"""What a repository of ours holds: the names of files that are sent and fetched. All others stay.

A model repository has the exported model at its top, so that any library loads it by the repository's name,
and what a run is gone on with below `run/`:

    README.md config.json mgh_ds.json tokenizer.json model.safetensors …
    run/config.yaml metrics.jsonl ledger.jsonl … checkpoints/step-000100/{weights,optimizer}.safetensors

In a run folder these are `export/` and the folder itself. A data set is a store's folder, or JSONL files.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from mgh_ds.model.weights import DECISIVE, VOCABULARIES

Kind = Literal["model", "dataset"]

RUN, EXPORT = "run/", "export/"
CARD = "README.md"
CARDS = (CARD, "LICENSE*")
# Weights are safetensors: no file here is one that can run code when it is read.
MODEL_FILES = (
    *CARDS,
    *DECISIVE,
    *VOCABULARIES,
    "generation_config.json",
    "chat_template.jinja",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "[0-9]_*/config.json",  # modules of sentence-transformers
    "[0-9]_*/model.safetensors",
    "onnx/model*.onnx",
    "onnx/model*.onnx.data",  # weights of a graph that is larger than a message of protobuf may be
)
HELD_OUT_TEXTS = ("token_weights.json", "retrieved_weights.json", "evaluation/*.json")
RUN_FILES = (
    "config.yaml",
    "metrics.jsonl",
    "ledger.jsonl",
    "backbone.json",
    "run.json",
    *HELD_OUT_TEXTS,
    "checkpoints/step-*/manifest.json",
    "checkpoints/step-*/weights.safetensors",
    "checkpoints/step-*/optimizer.safetensors",
)
STORE_FILES = (*CARDS, "manifest.json", "part-*.arrow", "units.parquet")
RECORD_FILES = (*CARDS, "*.jsonl")


def is_any_of(path: str, patterns: Iterable[str]) -> bool:
    """Whether a path, with `/` between its parts, is one of those that the patterns name, part by part."""
    parts = path.split("/")
    if any(part in ("", "..") or part.startswith(".") for part in parts):
        return False
    return any(
        len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
        for wanted in (pattern.split("/") for pattern in patterns)
    )


def is_ours(path: str, kind: Kind) -> bool:
    """Whether a file of a repository is one that `push` may have sent there."""
    if kind == "dataset":
        return is_any_of(path, (*STORE_FILES, *RECORD_FILES))
    return is_any_of(path, MODEL_FILES) or (
        path.startswith(RUN) and is_any_of(path.removeprefix(RUN), RUN_FILES)
    )


def places(paths: Sequence[str]) -> dict[str, str]:
    """Where the files of a repository lie in the folder that they are fetched to, by their paths there: as
    they are or, if there is a run among them, that at the top and the model in `export/`."""
    if not any(path.startswith(RUN) for path in paths):
        return {path: path for path in paths}
    model = EXPORT if "config.json" in paths else ""  # else there is only a card
    return {path: path.removeprefix(RUN) if path.startswith(RUN) else model + path for path in paths}
