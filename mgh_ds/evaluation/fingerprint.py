"""What a score belongs to: weights, settings, data, prompts and versions. Another of these, another score."""

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from mgh_ds.evaluation.prompts import Prompts
from mgh_ds.records.schema import Record

LIBRARIES = ("mgh-ds", "mteb", "scikit-learn", "tokenizers", "torch", "transformers")
"""scikit-learn fits what mteb's classification and clustering are scored by."""

Fingerprint = dict[str, Any]
"""weights and settings of the encoder, data and prompts by task, versions by library."""


def fingerprint(
    origin: Mapping[str, Any],
    *,
    instructions: bool,
    data: Mapping[str, Any],
    prompts: Mapping[str, Prompts],
) -> Fingerprint:
    """The fingerprint of scores.

    Args:
        origin: the encoder's weights and settings, as far as they are known.
        instructions: whether texts are read under instructions.
        data: by task, what `data_of_task` or `data_of_records` says.
        prompts: by task.
    """
    return {
        "weights": dict(origin.get("weights", {})),
        "settings": {**origin.get("settings", {}), "instructions": instructions},
        "data": dict(data),
        "prompts": {name: dict(found) for name, found in prompts.items()},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of the libraries that scores depend on."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def data_of_task(task: Any) -> dict[str, Any]:
    """What tells an mteb task's data from others: the hub's revision or the checksum of local files, and
    which part of them is scored."""
    dataset = task.metadata.dataset
    return {
        "path": dataset.get("path"),
        "revision": dataset.get("revision"),
        "subsets": sorted(task.hf_subsets or []),
        "splits": list(task.eval_splits),
    }


def data_of_records(records: Sequence[Record]) -> dict[str, Any]:
    """The same of held-out records, from which the tasks in memory are made."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(record.model_dump_json().encode() + b"\n")
    return {"path": "held-out records", "revision": f"sha256:{digest.hexdigest()}"}
