"""The records with the negatives that were chosen for them, as MGH JSONL, and where each came from.

The scores of positive and mined negatives are the cross-encoder's if there is one, else cosines.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mgh_ds.common import files
from mgh_ds.mining.candidates import CandidateFiles, Found
from mgh_ds.mining.inputs import Inputs
from mgh_ds.mining.rescoring import RescoredFiles
from mgh_ds.mining.search import Float64s
from mgh_ds.mining.selection import Chosen, Selection
from mgh_ds.records.schema import MAX_NEGATIVES, Record

NO_LEVEL = "none"


@dataclass
class Outcome:
    """What became of the candidates. `dropped` counts those that were left out, by reason."""

    records: int = 0
    without: int = 0  # records that got no negative
    levels: Counter[str] = field(default_factory=Counter)  # negatives
    dropped: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "records_without_mined_negatives": self.without,
            "negatives_by_level": dict(sorted(self.levels.items())),
            "left_out": {reason: count for reason, count in self.dropped.items() if count},
        }


@dataclass(frozen=True)
class Provenance:
    """Who mined: name and fingerprint of the encoder, name of the cross-encoder, if there is one, and the
    index that found the candidates, if it is approximate."""

    model: str
    fingerprint: str
    judge: str | None = None
    index: str | None = None

    def asked(self) -> dict[str, str | None]:
        """For the report, which named no index when there was none."""
        return {name: value for name, value in asdict(self).items() if value is not None or name != "index"}


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
            judged = None if rescored is None else rescored.of(part.rows).astype(np.float64)
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
            chosen.append(fitting[: MAX_NEGATIVES - len(record.negatives)])
        rows = [
            part.candidates.documents[i, one.place]
            for i, its in zip(block, chosen, strict=True)
            for one in its
        ]
        texts = iter(inputs.documents.texts(np.array(rows, np.int64)))
        for place, record, its in zip(block, records, chosen, strict=True):
            outcome.without += not its
            if not its and selection.drop_unmined:
                continue
            outcome.records += 1
            outcome.levels.update(NO_LEVEL if one.level is None else str(one.level) for one in its)
            mined = [
                {"text": next(texts), "level": one.level, "score": float(scores[place, one.place])}
                for one in its
            ]
            said = _said(provenance, its, part, place, judged) if its else {}
            yield _with_negatives(record, mined, float(positives[place]), said)


def _with_negatives(
    record: Record, mined: Sequence[dict[str, Any]], score: float, said: dict[str, str]
) -> Record:
    """The record with more negatives. All scores of a file are of one scale, so those of others go."""
    own = [{"text": negative.text, "level": negative.level} for negative in record.negatives]
    values = record.model_dump()
    values |= {"negatives": [*own, *mined], "score": score, "source": record.source | said}
    return Record.model_validate(values)


def _said(
    provenance: Provenance, chosen: Sequence[Chosen], part: Found, place: int, judged: Float64s | None
) -> dict[str, str]:
    """For the record's `source`: rank and cosine of each mined negative, in their order, which is that of the
    record's last negatives."""
    cosines = part.candidates.scores[place]
    said = {
        "mined_by": provenance.model,
        "mined_by_sha256": provenance.fingerprint,
        "mined_ranks": " ".join(str(one.place + 1) for one in chosen),
        "mined_scores": " ".join(f"{cosines[one.place]:.4f}" for one in chosen),
        "mined_positive_score": f"{part.positives[place]:.4f}",
    }
    if provenance.index is not None:
        said["mined_index"] = f"{provenance.index}, approximate"
    if provenance.judge is not None and judged is not None:
        said |= {
            "mined_judge": provenance.judge,
            "mined_judge_scores": " ".join(f"{judged[place, 1 + one.place]:.4f}" for one in chosen),
            "mined_judge_positive_score": f"{judged[place, 0]:.4f}",
        }
    return said
