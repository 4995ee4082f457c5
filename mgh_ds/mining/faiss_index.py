"""Search by an index of faiss, on the CPU: `Flat` finds what `search` finds, others are approximate.

An index is built once for a folder and kept as a file, so that all workers search the same one; it is in
memory while it is built or searched.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mgh_ds.common import files
from mgh_ds.common.claims import once
from mgh_ds.common.errors import MghError
from mgh_ds.common.labels import label
from mgh_ds.encoding.vectors import Floats, Vectors
from mgh_ds.mining.search import SPARE, Candidates, Excluded, Int64s, ranked

if TYPE_CHECKING:
    import faiss

TRAINED_ON = 2**18  # documents, of which an index that is trained sees no more
ROUNDING = 1e-5  # by which float32 may be wrong in a cosine, with room to spare
FILE, MANIFEST = "index.faiss", "manifest.json"


@dataclass(frozen=True)
class IndexSpec:
    """What `faiss.index_factory` makes of `factory`, and how it is searched ("nprobe=32", "efSearch=64")."""

    factory: str
    parameters: str | None = None

    def __str__(self) -> str:
        return f"{self.factory} {self.parameters}" if self.parameters else self.factory

    @property
    def exact(self) -> bool:
        return self.factory == "Flat"

    def check(self, dimensions: int) -> None:
        """Raises MghError for what faiss does not know."""
        self.settle(self.empty(dimensions))

    def empty(self, dimensions: int) -> "faiss.Index":
        import faiss

        try:
            return faiss.index_factory(dimensions, self.factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise MghError(f"--index {self.factory}: faiss makes no such index: {_reason(error)}") from None

    def settle(self, index: "faiss.Index") -> None:
        """Sets the parameters of search."""
        import faiss

        try:
            faiss.ParameterSpace().set_index_parameters(index, self.parameters or "")
        except RuntimeError as error:
            given = f"--index-parameters {self.parameters}"
            raise MghError(f"{given}: faiss refuses them for {self.factory}: {_reason(error)}") from None


class FaissIndex:
    """An index of `documents` in `folder`, built by whichever worker comes first.

    Raises MghError if the folder is of other documents or of another index, if the documents are too few to
    train it, and for a damaged file.
    """

    def __init__(self, folder: Path, documents: Vectors, spec: IndexSpec) -> None:
        import faiss

        self._documents, self._spec = documents, spec
        path = folder / FILE
        label(folder / MANIFEST, {"factory": spec.factory, "documents": documents.manifest.fingerprint})
        once(folder, FILE, path.exists, lambda: _build(path, documents, spec))
        try:
            self._index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise MghError(f"{path} is damaged ({_reason(error)}): remove it, and it is built anew") from None
        spec.settle(self._index)

    @property
    def made_of(self) -> dict[str, str | None]:
        return {"factory": self._spec.factory, "parameters": self._spec.parameters}

    def search(self, queries: Floats, k: int, excluded: Excluded) -> Candidates:
        """As `search.search`; where the index is approximate, among the documents that it finds.

        Where documents that are left out took the places of others, or equal ones may lie beyond the last
        place, more are asked for.
        """
        count = len(queries)
        found = Candidates(np.full((count, k), -1, np.int64), np.full((count, k), -np.inf))
        left, width = np.arange(count), k + SPARE
        while len(left):
            width = min(width, self._documents.manifest.count)
            scores, rows = self._found(queries[left], width)
            last = scores[:, -1]
            valid = (rows >= 0) & ~self._are_excluded(left, rows, excluded)
            ended = (rows[:, -1] < 0) | (width == self._documents.manifest.count)
            order = np.argsort(~valid, axis=1, kind="stable")  # those that count first, best first
            rows = np.take_along_axis(np.where(valid, rows, -1), order, 1)
            scores = np.take_along_axis(np.where(valid, scores, -np.inf), order, 1)
            kth = scores[:, min(k, width) - 1]
            if self._spec.exact:
                enough = ended | (last < kth - ROUNDING)
                rows[scores < kth[:, None] - ROUNDING] = -1
            else:
                enough = ended | (kth > -np.inf)
            needed = int((rows[enough] >= 0).sum(1).max(initial=1))
            best = ranked(queries[left[enough]], self._documents, rows[enough, :needed], k)
            for into, values in zip(found, best, strict=True):
                into[left[enough], : values.shape[1]] = values
            left, width = left[~enough], 4 * width
        return found

    def _found(self, queries: Floats, width: int) -> tuple[Floats, Int64s]:
        """What faiss finds, [q, width] each, best first. Raises MghError for parameters that it took for
        good and cannot search by."""
        try:
            scores, rows = self._index.search(queries.astype(np.float32), width)
        except RuntimeError as error:
            raise MghError(f"--index {self._spec}: faiss cannot search: {_reason(error)}") from None
        return scores, rows

    def _are_excluded(self, queries: Int64s, rows: Int64s, excluded: Excluded) -> npt.NDArray[np.bool_]:
        """[q, k]: which of the `rows` found for the queries with these numbers do not count."""
        stride = self._documents.manifest.count
        return np.isin(queries[:, None] * stride + rows, excluded.queries * stride + excluded.documents)


def _build(path: Path, documents: Vectors, spec: IndexSpec) -> None:
    import faiss

    index = spec.empty(documents.manifest.dimensions)
    try:
        if not index.is_trained:
            sample = min(TRAINED_ON, documents.manifest.count)
            rows = np.linspace(0, documents.manifest.count - 1, sample).astype(np.int64)
            index.train(documents.take(rows).astype(np.float32))
        with tqdm(total=documents.parts, desc="index", unit=" parts", disable=None, leave=False) as bar:
            for _, vectors in documents:
                index.add(vectors.astype(np.float32))
                bar.update()
    except RuntimeError as error:
        count = f"{documents.manifest.count:,} documents"
        raise MghError(f"--index {spec.factory} cannot be built of {count}: {_reason(error)}") from None
    with files.new_file(path) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def _reason(error: RuntimeError) -> str:
    """What faiss says, without the place in its source."""
    return re.sub(r"^Error in .* at \S+:\d+: (Error: )?", "", str(error).strip())
