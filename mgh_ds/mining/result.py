"""The two files that a mining or a relabel pass ends with."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mgh_ds.common import files
from mgh_ds.common.claims import once
from mgh_ds.common.differences import differences
from mgh_ds.common.errors import MghError

RECORDS, REPORT = "records.jsonl", "mining.json"


def settled(folder: Path, asked: dict[str, Any], write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The content of the report, which holds what was `asked` and what `write` says of the records that it
    writes; one worker writes both, unless they are there.

    Raises MghError, which names the first difference, if they came of something else that was asked.
    """
    asked = json.loads(json.dumps(asked))
    report = folder / REPORT

    def make() -> None:
        files.write_json(report, {"asked": asked, **write(folder / RECORDS)})

    once(folder, RECORDS, report.exists, make)
    said = files.read_json(report)
    different = differences(said["asked"], asked)
    if different:
        raise MghError(
            f"{folder / RECORDS} was chosen otherwise ({different[0]}): remove {report} to choose anew, "
            "or mine into another folder"
        )
    return said


def sha256_of(fingerprint: dict[str, str]) -> str:
    """A model's fingerprint as one SHA-256, in hexadecimal."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
