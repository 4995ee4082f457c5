"""What a cross-encoder says of the candidates: it reads query and document together."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.common.labels import label
from mgh_ds.common.protocols import ScorePairs
from mgh_ds.mining import candidates
from mgh_ds.mining.candidates import CandidateFiles
from mgh_ds.mining.inputs import Inputs

PART_ROWS = 256  # of which there is a whole number in a part of candidates


@dataclass(frozen=True)
class Judge:
    """A cross-encoder: its name, its fingerprint, and what loads it."""

    name: str
    fingerprint: dict[str, str]
    load: Callable[[], ScorePairs]

    @classmethod
    def named(cls, name: str) -> "Judge":
        """A cross-encoder of sentence-transformers. Raises MghError if there is no such model."""
        from mgh_ds.evaluation.judges import load_cross_encoder
        from mgh_ds.model.fingerprint import fingerprint

        return cls(name, fingerprint(name), lambda: load_cross_encoder(name))


class RescoredFiles:
    """part-00000.npy, …: probabilities of relevance, float32 [rows, 1 + depth], the positive's first; -inf
    where there is no candidate.

    `judge` is the fingerprint of the model behind `score_pairs`. Raises MghError if the folder is of another
    model or another search.
    """

    def __init__(
        self,
        folder: Path,
        inputs: Inputs,
        found: CandidateFiles,
        score_pairs: ScorePairs,
        judge: dict[str, str],
    ) -> None:
        self.folder, self._inputs, self._found, self._score_pairs = folder, inputs, found, score_pairs
        assert candidates.PART_ROWS % PART_ROWS == 0
        self.parts = -(-len(inputs.store) // PART_ROWS)
        label(folder / "manifest.json", {**found.made_of, "cross_encoder": judge})

    def path(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}.npy"

    def make(self, part: int) -> None:
        """Scores the candidates of a part's records. Raises MghError for a score that is not finite."""
        first = part * PART_ROWS
        rows = np.arange(first, min(first + PART_ROWS, len(self._inputs.store)))
        searched, inside = divmod(first, candidates.PART_ROWS)
        documents = self._found.read(searched).candidates.documents[inside : inside + len(rows)]
        texts = iter(self._inputs.documents.texts(documents[documents >= 0]))
        valid = np.concatenate([np.ones((len(rows), 1), bool), documents >= 0], axis=1)
        pairs = []
        for record, count in zip(self._inputs.store.rows(rows), valid.sum(1) - 1, strict=True):
            pairs.append((record.query, record.positive))
            pairs += [(record.query, next(texts)) for _ in range(count)]
        scores = np.full(valid.shape, -np.inf, np.float32)
        scores[valid] = self._score_pairs(pairs)
        bad = np.flatnonzero(~np.isfinite(scores[valid]))
        if len(bad):
            query, text = pairs[bad[0]]
            raise MghError(
                f"the cross-encoder gave NaN or infinity to {len(bad):,} of {len(pairs):,} pairs, one of "
                f"them {query[:50]!r} and {text[:50]!r}: choose another one"
            )
        with files.new_file(self.path(part)) as file:
            np.save(file, scores, allow_pickle=False)

    def of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """[len(rows), 1 + depth] of the records of a part of candidates."""
        numbers = range(int(rows[0]) // PART_ROWS, int(rows[-1]) // PART_ROWS + 1)
        return np.concatenate([np.load(self.path(number), allow_pickle=False) for number in numbers])
