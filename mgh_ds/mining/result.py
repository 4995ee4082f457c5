"""The two files that a mining or a relabel pass ends with: records, and the report of how they were chosen.

The report is written last and holds the records' checksum: with both in place the work is finished.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mgh_ds.common import files
from mgh_ds.common.checksums import checksum
from mgh_ds.common.claims import once
from mgh_ds.common.differences import differences
from mgh_ds.common.errors import MghError
from mgh_ds.mining.arrays import damaged

RECORDS, REPORT = "records.jsonl", "mining.json"
SHA256 = "records_sha256"
NAMES = ("model", "judge")
"""What is asked by name, for people: a model has several names, and the fingerprints beside them decide."""


def settled(folder: Path, asked: dict[str, Any], write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The content of the report, which holds what was `asked`, what `write` says of the records that it
    writes, and their checksum. One worker writes both, unless they are there; records that are missing, or
    are not those of the report, are written anew.

    Raises MghError, which names the first difference, if they came of something else that was asked, and for
    a report that is damaged.
    """
    asked = json.loads(json.dumps(asked))
    records, report = folder / RECORDS, folder / REPORT

    def make() -> None:
        report.unlink(missing_ok=True)  # it speaks of other records
        said = write(records)
        files.write_json(report, {"asked": asked, **said, SHA256: files.sha256(records)})

    once(folder, RECORDS, lambda: _finished(records, report, asked), make)
    return files.read_json(report)


def _finished(records: Path, report: Path, asked: dict[str, Any]) -> bool:
    """Whether the records are those of the report. Raises MghError if it is damaged or of something else."""
    try:
        said = json.loads(report.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except ValueError as error:
        raise damaged(report, error) from None
    if not isinstance(said, dict) or not isinstance(said.get("asked"), dict):
        raise damaged(report, "it does not say what was asked")
    if SHA256 not in said:  # of an earlier version, which kept none
        return False
    different = differences(_decisive(said["asked"]), _decisive(asked))
    if different:
        raise MghError(
            f"{records} was chosen otherwise ({different[0]}): remove {report} to choose anew, "
            "or mine into another folder"
        )
    return records.is_file() and checksum(records) == said[SHA256]


def _decisive(asked: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if name not in NAMES}


def sha256_of(fingerprint: dict[str, str]) -> str:
    """A model's fingerprint as one SHA-256, in hexadecimal."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
