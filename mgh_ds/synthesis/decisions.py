"""The audit's findings as reasons to leave a sample out of a merge."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mgh_ds.common.errors import MghError
from mgh_ds.records.levels import LEVELS
from mgh_ds.synthesis.merge import UNITS

# What `merge --drop` takes, and when a row of decisions.parquet is meant. What was not measured is null.
DROPPABLE: dict[str, Callable[[dict[str, Any]], bool]] = {
    "near_duplicate": lambda row: row["near_duplicate_of"] is not None,
    "wrong_language": lambda row: row["wrong_language"],
    "false_negative": lambda row: any(row[f"false_negative_{level}"] for level in LEVELS),
    "misordered": lambda row: row["ordered"] is False,
}


def decisions_to_drop(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The ids of the samples that any of these findings is about, with the first such finding. What an
    earlier merge dropped for one of them stays out: the audit after it has not seen it.

    Raises MghError for a finding that does not exist, or if there was no audit.
    """
    if unknown := [name for name in names if name not in DROPPABLE]:
        raise MghError(f"cannot drop {unknown[0]!r}: there are {', '.join(DROPPABLE)}")
    if not names:
        return {}
    path = folder / "audit" / "decisions.parquet"
    if not path.exists():
        raise MghError(
            f"{path} does not exist: the audit finds what to drop; run mgh-ds synth audit {folder}"
        )
    found = _dropped_before(folder / "merged" / UNITS, names)
    for batch in pq.ParquetFile(path).iter_batches():
        for row in batch.to_pylist():
            reason = next((name for name in names if DROPPABLE[name](row)), None)
            if reason is not None:
                found[row["id"]] = reason
    return found


def _dropped_before(path: Path, names: Sequence[str]) -> dict[str, str]:
    if not path.exists():
        return {}
    rows = pq.read_table(path, columns=["unit_id", "reason"], filters=[("reason", "in", list(names))])
    return dict(zip(rows["unit_id"].to_pylist(), rows["reason"].to_pylist(), strict=True))
