"""What a cross-encoder says of the candidates: it reads query and document together."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mgh_ds.common import files
from mgh_ds.common.labels import label
from mgh_ds.common.protocols import ScorePairs
from mgh_ds.mining import candidates
from mgh_ds.mining.arrays import Bools, Kind, read_arrays, require_given_scores, require_kept_scores
from mgh_ds.mining.candidates import CandidateFiles, Found
from mgh_ds.mining.inputs import Inputs
from mgh_ds.mining.search import Int64s

PART_ROWS = 256  # of which there is a whole number in a part of candidates


@dataclass(frozen=True)
class Judge:
    """A cross-encoder: its name, its fingerprint, and what loads it, at the first call alone where that takes
    time."""

    name: str
    fingerprint: dict[str, str]
    load: Callable[[], ScorePairs]

    @classmethod
    def named(cls, name: str) -> "Judge":
        """A cross-encoder of sentence-transformers. Raises MghError if there is no such model, and when it is
        loaded, if it cannot be, or has no head that gives a pair one score."""
        from mgh_ds.evaluation.judges import load_cross_encoder
        from mgh_ds.model.fingerprint import fingerprint

        return cls(name, fingerprint(name), cache(lambda: load_cross_encoder(name)))


def load_if_needed(judge: Judge, folder: Path, records: int) -> None:
    """Loads a judge unless `RescoredFiles` in `folder` have all parts, so that one that is none is refused
    before the work that leads to them."""
    if not all(_path(folder, part).exists() for part in range(_parts(records))):
        judge.load()


def _parts(records: int) -> int:
    return -(-records // PART_ROWS)


def _path(folder: Path, part: int) -> Path:
    return folder / f"part-{part:05d}.npy"


def _valid(documents: Int64s) -> Bools:
    """Which of the pairs there are, [q, 1 + depth], of the documents [q, depth] that were found."""
    return np.concatenate([np.ones((len(documents), 1), bool), documents >= 0], axis=1)


class RescoredFiles:
    """part-00000.npy, …: probabilities of relevance, float32 [rows, 1 + depth], the positive's first; -inf
    where there is no candidate.

    Raises MghError if the folder is of another judge or another search.
    """

    def __init__(self, folder: Path, inputs: Inputs, found: CandidateFiles, judge: Judge) -> None:
        self.folder, self._inputs, self._found, self._judge = folder, inputs, found, judge
        assert candidates.PART_ROWS % PART_ROWS == 0
        self.parts = _parts(len(inputs.store))
        label(folder / "manifest.json", {**found.made_of, "cross_encoder": judge.fingerprint})

    def path(self, part: int) -> Path:
        return _path(self.folder, part)

    def make(self, part: int) -> None:
        """Scores the candidates of a part's records. Raises MghError for a score that is not finite."""
        first = part * PART_ROWS
        rows = np.arange(first, min(first + PART_ROWS, len(self._inputs.store)))
        searched, inside = divmod(first, candidates.PART_ROWS)
        documents = self._found.read(searched).candidates.documents[inside : inside + len(rows)]
        texts = iter(self._inputs.documents.texts(documents[documents >= 0]))
        valid = _valid(documents)
        pairs = []
        for record, count in zip(self._inputs.store.rows(rows), valid.sum(1) - 1, strict=True):
            pairs.append((record.query, record.positive))
            pairs += [(record.query, next(texts)) for _ in range(count)]
        scores = np.full(valid.shape, -np.inf, np.float32)
        scores[valid] = self._judge.load()(pairs)
        require_given_scores(
            scores[valid], "the cross-encoder", lambda i: f"{pairs[i][1][:50]!r}, for {pairs[i][0][:50]!r}"
        )
        with files.new_file(self.path(part)) as file:
            np.save(file, scores, allow_pickle=False)

    def of(self, found: Found) -> npt.NDArray[np.float32]:
        """[q, 1 + depth] of the records of a part of candidates. Raises MghError for a damaged file."""
        valid = _valid(found.candidates.documents)
        return np.concatenate(
            [
                self._read(int(found.rows[first]) // PART_ROWS, valid[first : first + PART_ROWS])
                for first in range(0, len(valid), PART_ROWS)
            ]
        )

    def _read(self, part: int, valid: Bools) -> npt.NDArray[np.float32]:
        path = self.path(part)
        [scores] = read_arrays(path, scores=Kind(valid.shape, np.float32))
        require_kept_scores(path, scores, valid)
        return scores
