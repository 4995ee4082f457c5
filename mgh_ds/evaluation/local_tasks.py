"""MTEB tasks whose data lie in local folders: mteb's own task classes, metrics and prompts, without its hub.

A data folder holds one folder a task (`FOLDERS` lists them):

    STS:             test.jsonl {"sentence1", "sentence2", "score"}
    retrieval:       corpus.jsonl {"_id", "title", "text"} · queries.jsonl {"_id", "text"}
                     qrels/test.tsv with the header query-id, corpus-id, score (the BEIR layout)
    classification:  train.jsonl and test.jsonl {"text", "label"}
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mteb

from mgh_ds.common.errors import MghError
from mgh_ds.common.problems import nearest
from mgh_ds.evaluation.task_files import read_classification, read_retrieval, read_sts


@dataclass(frozen=True)
class _Layout:
    """Where a task's data lie: the folder, which of mteb's subsets it is, its files and how to read them."""

    folder: str
    subset: str
    files: tuple[str, ...]
    read: Callable[
        [Path], dict[str, Any]
    ]  # folder → the data set by split; "test" stands for the scored split


def local_tasks(names: Sequence[str], data_dir: Path) -> list[Any]:
    """The named MTEB tasks with their data read from `data_dir`.

    Raises MghError for a task without a local layout, a folder or file that is missing, and a malformed row.
    All are read before the first is returned, so that nothing is encoded when something is wrong.
    """
    _check_folder(data_dir)
    return [_with_data(_described(name, data_dir), data_dir) for name in names]


def described_tasks(names: Sequence[str], data_dir: Path) -> list[Any]:
    """The same without their data, but for the checksum of its files: enough to tell which they are."""
    _check_folder(data_dir)
    return [_described(name, data_dir) for name in names]


def _check_folder(data_dir: Path) -> None:
    if not data_dir.is_dir():
        raise MghError(
            f"{data_dir} is not a folder: --data-dir (in a recipe evaluation.data_dir) must hold one folder "
            "a task, such as SciFact/"
        )


def _described(name: str, data_dir: Path) -> Any:
    if name not in LAYOUTS:
        near = nearest(name, LAYOUTS)
        raise MghError(
            f"task {name} has no local layout{near} (those with one: {', '.join(LAYOUTS)}): "
            "leave --data-dir (in a recipe evaluation.data_dir) out to read it from the Hugging Face hub"
        )
    layout = LAYOUTS[name]
    folder = data_dir / layout.folder
    for file in layout.files:
        if not (folder / file).is_file():
            raise MghError(
                f"task {name}: {folder / file} does not exist. It needs {', '.join(layout.files)} in "
                f"{layout.folder}/ of --data-dir (in a recipe evaluation.data_dir); docs/evaluation.md "
                "shows what is in them"
            )
    task = mteb.get_task(name, hf_subsets=[layout.subset])
    # results name the data that were scored, not the hub's revision
    source = {"path": layout.folder, "revision": _fingerprint(folder, layout.files)}
    task.metadata = task.metadata.model_copy(update={"dataset": source})
    return task


def _with_data(task: Any, data_dir: Path) -> Any:
    layout = LAYOUTS[task.metadata.name]
    splits = layout.read(data_dir / layout.folder)
    # mteb's split may have another name than the file (XQuADRetrieval scores "validation")
    splits[task.eval_splits[0]] = splits.pop("test")
    task.dataset = {layout.subset: splits}
    task.data_loaded = True
    return task


def _fingerprint(folder: Path, names: Sequence[str]) -> str:
    """SHA-256 of the files' contents one after the other, as `cat FILES | sha256sum` prints it."""
    digest = hashlib.sha256()
    for name in names:
        digest.update((folder / name).read_bytes())
    return f"sha256:{digest.hexdigest()}"


_BEIR = ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")

LAYOUTS = {
    "STS17": _Layout("STS17-en", "en-en", ("test.jsonl",), read_sts),
    "SICK-R": _Layout("SICK-R", "default", ("test.jsonl",), read_sts),
    "SciFact": _Layout("SciFact", "default", _BEIR, read_retrieval),
    "XQuADRetrieval": _Layout("XQuAD-en", "en", _BEIR, read_retrieval),
    "Banking77Classification": _Layout(
        "Banking77", "default", ("train.jsonl", "test.jsonl"), read_classification
    ),
}
