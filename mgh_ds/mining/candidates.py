"""The candidates of all records, in files of so many records each."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mgh_ds.common import files
from mgh_ds.common.labels import label
from mgh_ds.mining.arrays import Kind, read_arrays, require_kept_scores
from mgh_ds.mining.embedding import Embedded
from mgh_ds.mining.faiss_index import FaissIndex
from mgh_ds.mining.inputs import Inputs
from mgh_ds.mining.known import Known
from mgh_ds.mining.search import Candidates, Float64s, Int64s, dots, search

VERSION = 1  # raised when the same vectors give other candidates
PART_ROWS = 4096


class Found(NamedTuple):
    """Of records that follow one another: rows of the store [q], candidates [q, depth], and the cosines of
    query and positive [q]."""

    rows: Int64s
    candidates: Candidates
    positives: Float64s


class CandidateFiles:
    """part-00000.npz, …: what `search`, or an index in its place, finds for each record, the first `depth`
    documents that are no known positives (`known`). Raises MghError if the folder is of another search."""

    def __init__(
        self, folder: Path, inputs: Inputs, embedded: Embedded, depth: int, index: FaissIndex | None = None
    ) -> None:
        self.folder, self._inputs, self._embedded, self._depth = folder, inputs, embedded, depth
        self._index = index
        self._known = Known(inputs.store)
        self.parts = -(-len(inputs.store) // PART_ROWS)
        self.made_of = {
            "version": VERSION,
            "depth": depth,
            "replace": inputs.replace,
            **embedded.fingerprints,
            **({} if index is None else {"index": index.made_of}),
        }
        label(folder / "manifest.json", self.made_of)

    def path(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}.npz"

    def make(self, part: int, device: torch.device) -> None:
        """Searches for a part's records."""
        rows, inputs, vectors = self._rows(part), self._inputs, self._embedded
        queries = vectors.queries.take(rows)
        excluded = self._known.excluded(inputs.records(rows), inputs.documents)
        if self._index is None:
            found = search(queries, vectors.documents, self._depth, excluded, device)
        else:
            found = self._index.search(queries, self._depth, excluded)
        positives = vectors.positives.take(inputs.positives.find(self._known.positives[rows]))
        with files.new_file(self.path(part)) as file:
            np.savez(file, positives=dots(queries, positives), **found._asdict())

    def read(self, part: int) -> Found:
        """What was found for a part's records. Raises MghError if its file is damaged."""
        path, rows = self.path(part), self._rows(part)
        shape = (len(rows), self._depth)
        documents, scores, positives = read_arrays(
            path,
            documents=Kind(shape, np.int64),
            scores=Kind(shape, np.float64),
            positives=Kind(shape[:1], np.float64),
        )
        require_kept_scores(path, scores, documents >= 0)
        require_kept_scores(path, positives)
        return Found(rows, Candidates(documents, scores), positives)

    def __iter__(self) -> Iterator[Found]:
        return map(self.read, range(self.parts))

    def _rows(self, part: int) -> npt.NDArray[np.int64]:
        first = part * PART_ROWS
        return np.arange(first, min(first + PART_ROWS, len(self._inputs.store)))
