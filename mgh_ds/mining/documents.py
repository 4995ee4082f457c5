"""The distinct texts of a corpus in an Arrow file: any of them can be read at once.

The file is mapped into memory, and what was read is let go, so that it does not stay resident.
"""

import mmap
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.encoding.texts import Survey, Text, survey
from mgh_ds.mining.arrays import damaged
from mgh_ds.records.columns import hash64
from mgh_ds.records.convert.settings import checked_text
from mgh_ds.records.rows import RowRefused
from mgh_ds.records.store import take_in_order

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

BATCH_ROWS = 4096
COLUMNS = {"id": pa.string(), "text": pa.string(), "hash": pa.uint64()}
SHA256 = b"mgh_ds.corpus"


def write_documents(path: Path, texts: Iterable[Text]) -> None:
    """Writes the first of all equal texts, in their order. `texts` must begin anew at each iteration; memory
    holds 24 bytes of each.

    Raises MghError, with its place, for an id that occurs twice and a text that a record may not hold.
    """
    hashes = array("Q")
    found = survey(texts, see=lambda text: hashes.append(hash64(text.text)))
    _, first = np.unique(np.frombuffer(hashes, np.uint64), return_index=True)
    kept = np.zeros(found.count, bool)
    kept[first] = True
    schema = pa.schema(list(COLUMNS.items()), metadata={SHA256: found.sha256.encode()})
    batch: list[tuple[str, str, int]] = []
    with files.new_file(path) as file, pa.ipc.new_file(file, schema) as writer:
        for row, text in enumerate(texts):
            if kept[row]:
                batch.append((text.id, _fit(text), hashes[row]))
            if batch and (len(batch) == BATCH_ROWS or row == found.count - 1):
                columns = [
                    pa.array(column, kind)
                    for column, kind in zip(zip(*batch, strict=True), COLUMNS.values(), strict=True)
                ]
                writer.write_batch(pa.record_batch(columns, schema=schema))
                batch = []


def _fit(text: Text) -> str:
    try:
        return checked_text(text.text, "text")
    except RowRefused as refused:
        raise MghError(f"{text.place}: no record may hold its text: {refused.reason}") from None


class Documents:
    """The documents of a file that `write_documents` wrote; row i is the i-th distinct text.

    `instruction` is what they are read under. Raises MghError if the file is none of these, or damaged.
    """

    def __init__(self, path: Path, instruction: str | None = None) -> None:
        self.path, self.instruction = path, instruction
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._file = pa.ipc.open_file(pa.py_buffer(self._map))
            batches = [self._file.get_batch(i) for i in range(self._file.num_record_batches)]
            sha256 = (self._file.schema.metadata or {})[SHA256].decode()
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise damaged(path, error) from None
        self._batches = batches
        self._starts = np.cumsum([0, *map(len, batches)], dtype=np.int64)
        self.hashes: UInt64s = np.concatenate([batch["hash"].to_numpy() for batch in batches])  # [n]
        self._order = np.argsort(self.hashes)
        self.survey = Survey(len(self.hashes), sha256)
        self._release()

    def __len__(self) -> int:
        return self.survey.count

    def __iter__(self) -> Iterator[Text]:
        for batch in self._batches:
            rows = zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True)
            self._release()
            for name, text in rows:
                yield Text(name, text, self.instruction, f"{self.path}, id {name!r}")

    def texts(self, rows: Int64s) -> list[str]:
        """The texts of these rows, in that order."""
        taken = take_in_order(rows, self._starts, self._take)
        return taken["text"].to_pylist()

    def find(self, hashes: Sequence[int] | UInt64s) -> Int64s:
        """The rows of the texts with these hashes (`hash64`); -1 where there is none."""
        wanted = np.asarray(hashes, np.uint64)
        places = np.searchsorted(self.hashes, wanted, sorter=self._order)
        rows = self._order[np.minimum(places, len(self) - 1)]
        return np.where(self.hashes[rows] == wanted, rows, -1)

    def _take(self, number: int, rows: Int64s) -> pa.RecordBatch:
        taken = self._batches[number].select(["text"]).take(pa.array(rows))
        self._release()
        return taken

    def _release(self) -> None:
        self._map.madvise(mmap.MADV_DONTNEED)
