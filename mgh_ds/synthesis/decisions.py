"""The audit's findings as reasons to leave a sample out of a merge."""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mgh_ds.audit.agreement import SOUND_KAPPA, is_sound
from mgh_ds.audit.false_negatives import JUDGE, KAPPA
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
DROP_AT_MOST = 0.2  # share of the records that may be dropped unless another is asked for


def decisions_to_drop(folder: Path, names: Sequence[str], at_most: float | None = None) -> dict[str, str]:
    """The ids of the samples that any of these findings is about, with the first such finding. What an
    earlier merge dropped for one of them stays out: the audit after it has not seen it.

    `at_most` is the share of the records that may be dropped; without it that is `DROP_AT_MOST`, and nothing
    is dropped by the word of a judge that agrees too little with the labelled set.
    Raises MghError for a finding that does not exist, if there was no audit, for false negatives that no
    judge, or no sound one, spoke of, and if more records would be dropped than may be.
    """
    if unknown := [name for name in names if name not in DROPPABLE]:
        raise MghError(f"cannot drop {unknown[0]!r}: there are {', '.join(DROPPABLE)}")
    if at_most is not None and not 0 <= at_most <= 1:
        raise MghError(f"--drop-at-most is a share between 0 and 1 (found {at_most:g})")
    if not names:
        return {}
    path = folder / "audit" / "decisions.parquet"
    if not path.exists():
        raise MghError(
            f"{path} does not exist: the audit finds what to drop; run mgh-ds synth audit {folder}"
        )
    decisions = pq.ParquetFile(path)
    if "false_negative" in names:
        _check_judge(path, decisions.schema_arrow.metadata or {}, folder, confirmed=at_most is not None)
    found = _dropped_before(folder / "merged" / UNITS, names)
    ids = set(found)
    for batch in decisions.iter_batches():
        for row in batch.to_pylist():
            ids.add(row["id"])
            reason = next((name for name in names if DROPPABLE[name](row)), None)
            if reason is not None:
                found[row["id"]] = reason
    most = DROP_AT_MOST if at_most is None else at_most
    if len(found) > most * len(ids):
        raise _too_many(folder, found, len(ids), most)
    return found


def _check_judge(path: Path, metadata: Mapping[bytes, bytes], folder: Path, *, confirmed: bool) -> None:
    """Raises MghError if nobody judged; and, unless `confirmed`, if the judge's word is no base for
    decisions."""
    if JUDGE not in metadata:
        raise MghError(
            f"{path} knows of no false negatives, since no judge was asked. Let a language model judge with "
            f"mgh-ds synth judge {folder}, or give the audit a --cross-encoder; then audit again"
        )
    judge = metadata[JUDGE].decode()
    if confirmed:
        return
    if KAPPA not in metadata:
        raise MghError(
            f"{path} does not say how far its judge, {judge}, agrees with labels given by hand: run mgh-ds "
            f"synth audit {folder} again; to drop by its verdicts all the same, add --drop-at-most "
            f"{DROP_AT_MOST:g}"
        )
    kappa = json.loads(metadata[KAPPA])
    if not is_sound(kappa):
        raise MghError(
            f"the judge of {path}, {judge}, agrees too little with labels given by hand (Cohen's kappa "
            f"{'undefined' if kappa is None else format(kappa, '.2f')}, below {SOUND_KAPPA}): its verdicts "
            "are no base for decisions. Ask another judge and audit again; to drop by them all the same, add "
            f"--drop-at-most {DROP_AT_MOST:g}"
        )


def _too_many(folder: Path, found: dict[str, str], records: int, at_most: float) -> MghError:
    counts = ", ".join(f"{name} {count:,}" for name, count in Counter(found.values()).most_common())
    share = len(found) / records
    page = folder / "audit" / "audit.html"
    return MghError(
        f"--drop would leave out {len(found):,} of {records:,} records ({100 * share:.1f} %: {counts}), more "
        f"than {100 * at_most:g} %. See {page}; if they shall go, add --drop-at-most "
        f"{math.ceil(100 * share) / 100:g}"
    )


def _dropped_before(path: Path, names: Sequence[str]) -> dict[str, str]:
    if not path.exists():
        return {}
    rows = pq.read_table(path, columns=["unit_id", "reason"], filters=[("reason", "in", list(names))])
    return dict(zip(rows["unit_id"].to_pylist(), rows["reason"].to_pylist(), strict=True))
