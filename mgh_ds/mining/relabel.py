"""A relabel pass, as each of its workers goes through it: a teacher scores the negatives that records have;
probable positives go, and the others get the level of their score.

    inputs.json        the records
    cache/             the records as a store, if they were none
    positives.arrow    of an encoder: the distinct positives
    documents.arrow    of an encoder: the distinct negatives
    vectors/           of an encoder: those of queries, positives and negatives
    scores/            what the teacher says of all positives and negatives
    records.jsonl      the records with what is left of their negatives
    mining.json        what was asked, and what became of the negatives; written last

Workers share the work as in `mining.run`.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mgh_ds.common.errors import MghError
from mgh_ds.distributed.workers import Worker
from mgh_ds.encoding.settings import EncodingSettings
from mgh_ds.mining.embedding import embed
from mgh_ds.mining.inputs import OWN_NEGATIVES, VECTORS, label_inputs, open_own, open_store
from mgh_ds.mining.known import Known
from mgh_ds.mining.parts import make_parts
from mgh_ds.mining.provenance import require_room
from mgh_ds.mining.relabel_output import NOTED, write_relabelled
from mgh_ds.mining.rescoring import Judge
from mgh_ds.mining.result import settled, sha256_of
from mgh_ds.mining.selection import Selection
from mgh_ds.mining.teacher_scores import ScoreRecords, TeacherScores, by_cosine, by_judge
from mgh_ds.model.encoder import Encoder
from mgh_ds.records.relabelled import is_note
from mgh_ds.records.store import Store

ASKED = ("relative_max", "absolute_margin", "max_score", "bands", "drop_unmined")


@dataclass(frozen=True)
class EncoderTeacher:
    """An encoder, whose cosines are the scores, and how it reads."""

    encoder: Encoder
    encoding: EncodingSettings
    instructions: bool = False
    document_instruction: str | None = None


Teacher = EncoderTeacher | Judge


def relabel(
    folder: Path, records: Path, selection: Selection, teacher: Teacher, me: Worker
) -> dict[str, Any]:
    """Does this worker's part and returns the content of `mining.json`. What is there already is not made
    again. Of `selection` the fields `ASKED` count; without `bands` levels stay.

    Raises MghError for bad records, with their place, if none of them has a negative, for one whose source
    has no room for what is noted there, for scores that are not finite, for a damaged file, and if `folder`
    was made of other data, with another teacher, or with another choice.
    """
    store = open_store(folder, records)
    with_negatives = np.flatnonzero(store.index().level_counts.any(axis=1))
    if not len(with_negatives):
        raise MghError(
            f"none of the {len(store):,} records of {records} has a negative: there is nothing to relabel"
        )
    require_room(store, with_negatives, NOTED, is_note)
    if isinstance(teacher, Judge):
        teacher.load()  # or be refused before the folder is of these records
    label_inputs(folder, store, OWN_NEGATIVES)
    score, made_of = _scorer(folder, store, teacher, me)
    scores = TeacherScores(folder / "scores", store, score, made_of)
    make_parts(scores.parts, me, scores.path, scores.make, "score negatives")
    if isinstance(teacher, Judge):
        by, sha256 = teacher.name, sha256_of(teacher.fingerprint)
    else:
        by, sha256 = teacher.encoder.name, sha256_of(teacher.encoder.origin["weights"])

    def write(path: Path) -> dict[str, Any]:
        return write_relabelled(path, scores, Known(store), selection, by, sha256).as_json()

    chosen = {name: value for name, value in asdict(selection).items() if name in ASKED}
    return settled(folder, {"relabel": chosen, "model": by, "fingerprint": sha256}, write)


def _scorer(folder: Path, store: Store, teacher: Teacher, me: Worker) -> tuple[ScoreRecords, dict[str, Any]]:
    """What scores records, and what the scores depend on."""
    if isinstance(teacher, Judge):
        return by_judge(teacher.load()), {"cross_encoder": teacher.fingerprint}
    inputs = open_own(folder, store, teacher.instructions, teacher.document_instruction)
    embedded = embed(folder / VECTORS, inputs, teacher.encoder, teacher.encoding, me)
    return by_cosine(inputs, embedded), embedded.fingerprints
