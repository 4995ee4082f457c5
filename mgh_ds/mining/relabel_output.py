"""The records with what a relabel pass leaves of their negatives, as MGH JSONL, and what became of each."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgh_ds.common import files
from mgh_ds.mining.known import Known
from mgh_ds.mining.search import Float64s
from mgh_ds.mining.selection import Selection, shares
from mgh_ds.records.columns import hash64
from mgh_ds.records.relabelled import DROPPED, NO_LEVEL, Change, Relabelled, Relabelling, is_note, notes
from mgh_ds.records.schema import Record

NOTED = tuple(notes(Relabelled("", (), 0.0), ""))
"""The keys that `source` gets."""
KNOWN = "a positive of the same query"
OF_MINED = ("mined_ranks", "mined_scores", "mined_judge_scores")
"""Keys of `source` that hold a word for each of a record's last negatives (`output.write_records`)."""


@dataclass
class Outcome:
    """What became of records and negatives. `dropped` counts negatives that went, by reason."""

    records: int = 0
    without: int = 0  # records that had no negative
    lost_all: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    relabelling: Relabelling = field(default_factory=Relabelling)

    def as_json(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "records_without_negatives": self.without,
            "records_that_lost_all": self.lost_all,
            "left_out": {reason: count for reason, count in self.dropped.items() if count},
            "relabelled": self.relabelling.as_json(),
        }


def write_relabelled(
    path: Path,
    scored: Iterable[tuple[Record, Float64s]],
    known: Known,
    selection: Selection,
    by: str,
    sha256: str,
) -> Outcome:
    """Writes the records in one step; `scored` gives each with the scores of its positive and negatives, by
    the model `by` with the fingerprint `sha256`."""
    outcome = Outcome()
    with files.new_file(path) as file:
        for record, scores in scored:
            afters = _afters(record, scores, known, selection, outcome.dropped)
            changed = _changed(record, scores, afters, by, sha256)
            outcome.relabelling.add(changed.source if record.negatives else {})
            outcome.without += not record.negatives
            outcome.lost_all += bool(record.negatives) and not changed.negatives
            if changed.negatives or not selection.drop_unmined:
                outcome.records += 1
                file.write(changed.model_dump_json().encode("utf-8") + b"\n")
    return outcome


def _afters(
    record: Record, scores: Float64s, known: Known, selection: Selection, dropped: Counter[str]
) -> list[str]:
    """What each negative is afterwards: its level as it stands in notes, or dropped."""
    positive, others = float(scores[0]), scores[1:]
    positives = set(known.positives_of(hash64(record.query)).tolist())
    fitting = selection.fitting(others, positive, dropped)
    afters = []
    for negative, fits, share in zip(record.negatives, fitting, shares(others, positive), strict=True):
        if fits and hash64(negative.text) in positives:
            dropped[KNOWN] += 1
            fits = False
        level = selection.band(float(share)) if selection.bands else negative.level
        afters.append(_word(level) if fits else DROPPED)
    return afters


def _changed(record: Record, scores: Float64s, afters: Sequence[str], by: str, sha256: str) -> Record:
    positive, *others = scores.tolist()
    negatives = [
        {"text": negative.text, "level": None if after == NO_LEVEL else int(after), "score": score}
        for negative, after, score in zip(record.negatives, afters, others, strict=True)
        if after != DROPPED
    ]
    source = {key: value for key, value in record.source.items() if not is_note(key)}
    source = _without_dropped(source, [after == DROPPED for after in afters])
    if afters:
        befores = [_word(negative.level) for negative in record.negatives]
        changes = [Change(*change) for change in zip(befores, afters, others, strict=True)]
        source |= notes(Relabelled(by, changes, positive), sha256)
    values = record.model_dump() | {"negatives": negatives, "score": positive, "source": source}
    return Record.model_validate(values)


def _without_dropped(source: Mapping[str, str], dropped: Sequence[bool]) -> dict[str, str]:
    """What mining noted of each negative, for those that stay."""
    kept = dict(source)
    for key in OF_MINED:
        words = kept.pop(key, "").split()
        last = dropped[len(dropped) - len(words) :] if len(words) <= len(dropped) else ()
        left = [word for word, gone in zip(words, last, strict=False) if not gone]
        if left:
            kept[key] = " ".join(left)
    return kept


def _word(level: int | None) -> str:
    return NO_LEVEL if level is None else str(level)
