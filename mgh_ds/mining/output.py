"""The records with the negatives that were chosen for them, as MGH JSONL, and where each came from.

The scores of positive and mined negatives are the cross-encoder's if there is one, else cosines. A record
that gets none stays as it was.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mgh_ds.common import files
from mgh_ds.mining.candidates import CandidateFiles, Found
from mgh_ds.mining.inputs import Inputs
from mgh_ds.mining.provenance import MINED_KEYS, Provenance, Scores
from mgh_ds.mining.rescoring import RescoredFiles
from mgh_ds.mining.search import Float64s
from mgh_ds.mining.selection import Selection
from mgh_ds.records.schema import MAX_NEGATIVES, Record

NO_LEVEL = "none"
NO_ROOM = f"beyond the {MAX_NEGATIVES} negatives of a record"


@dataclass
class Outcome:
    """What became of the candidates. `dropped` counts those that were left out, by reason."""

    records: int = 0
    without: int = 0  # records that got no negative
    short: int = 0  # records that got some, but fewer than asked for
    levels: Counter[str] = field(default_factory=Counter)  # negatives
    dropped: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "records_without_mined_negatives": self.without,
            "records_with_fewer_mined_negatives": self.short,
            "negatives_by_level": dict(sorted(self.levels.items())),
            "left_out": {reason: count for reason, count in self.dropped.items() if count},
        }


def write_records(
    path: Path,
    inputs: Inputs,
    found: CandidateFiles,
    rescored: RescoredFiles | None,
    selection: Selection,
    provenance: Provenance,
) -> Outcome:
    """Writes every record, with the negatives that it had and those chosen for it, in one step."""
    outcome = Outcome()
    with files.new_file(path) as file:
        for part in found:
            judged = None if rescored is None else rescored.of(part).astype(np.float64)
            for record in _records(inputs, part, judged, selection, provenance, outcome):
                file.write(record.model_dump_json().encode("utf-8") + b"\n")
    return outcome


def _records(
    inputs: Inputs,
    part: Found,
    judged: Float64s | None,
    selection: Selection,
    provenance: Provenance,
    outcome: Outcome,
) -> Iterator[Record]:
    scores = part.candidates.scores if judged is None else judged[:, 1:]
    positives = part.positives if judged is None else judged[:, 0]
    for start in range(0, len(part.rows), 256):  # texts of so many records in memory
        block = range(start, min(start + 256, len(part.rows)))
        records = inputs.records(part.rows[block.start : block.stop])
        chosen = []
        for place, record in zip(block, records, strict=True):
            fitting = selection.choose(scores[place], float(positives[place]), outcome.dropped)
            room = MAX_NEGATIVES - len(record.negatives)
            outcome.dropped[NO_ROOM] += len(fitting[room:])
            chosen.append(fitting[:room])
        rows = [
            part.candidates.documents[i, one.place]
            for i, its in zip(block, chosen, strict=True)
            for one in its
        ]
        texts = iter(inputs.documents.texts(np.array(rows, np.int64)))
        for place, record, its in zip(block, records, chosen, strict=True):
            outcome.without += not its
            outcome.short += 0 < len(its) < selection.most
            if not its and selection.drop_unmined:
                continue
            outcome.records += 1
            if not its:
                yield record
                continue
            outcome.levels.update(NO_LEVEL if one.level is None else str(one.level) for one in its)
            mined = [
                {"text": next(texts), "level": one.level, "score": float(scores[place, one.place])}
                for one in its
            ]
            picked = [one.place for one in its]
            notes = provenance.notes(
                [rank + 1 for rank in picked],
                Scores(part.positives[place], part.candidates.scores[place, picked].tolist()),
                Scores() if judged is None else Scores(judged[place, 0], judged[place, 1:][picked].tolist()),
            )
            yield _with_negatives(record, mined, float(positives[place]), notes)


def _with_negatives(
    record: Record, mined: Sequence[dict[str, Any]], score: float, notes: dict[str, str]
) -> Record:
    """The record with more negatives. All scores of a record are of one scale, so those of others go, and so
    do the notes of an earlier mining."""
    own = [{"text": negative.text, "level": negative.level} for negative in record.negatives]
    source = {key: value for key, value in record.source.items() if key not in MINED_KEYS}
    values = record.model_dump()
    values |= {"negatives": [*own, *mined], "score": score, "source": source | notes}
    return Record.model_validate(values)
