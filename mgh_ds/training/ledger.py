"""Which step trained on which records.

Rank 0 writes the ledger from the plan, in the background, so that no record id travels. That the ranks really
trained on those records is checked by a digest: each rank's is made from the ids in its own batches, and the
sum over the ranks must be the plan's.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import numpy as np

from mgh_ds.common.errors import MghError
from mgh_ds.common.json_lines import JsonLines
from mgh_ds.curriculum.loader import RecordStore
from mgh_ds.curriculum.mixing import fold_key, mix64
from mgh_ds.curriculum.plan import EMPTY, TrainingPlan
from mgh_ds.records.columns import hash64

HALF = 2**32


class Ledger:
    """Lines of the ledger, written one after another by a thread. Use it in a `with` block."""

    def __init__(self, lines: JsonLines, store: RecordStore, plan: TrainingPlan) -> None:
        self.lines, self.store, self.plan = lines, store, plan
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._last: Future[None] | None = None
        self._error: Exception | None = None  # of the first line that could not be written; none follows it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def write(self, step: int, problem: str | None) -> None:
        """The line of a step, counted from 0: its records in alphabetical order, and why it changed no
        weight, if it did not. Raises the error of a line before that could not be written."""
        self._raise()
        self._last = self._thread.submit(self._write, step, problem)

    def wait(self) -> None:
        """Until every line is written; any thread may. Raises the error of one that could not be."""
        if self._last is not None:
            self._last.result()
        self._raise()

    def ids(self, rows: np.ndarray) -> list[str]:
        """The ids of these records of the plan, in alphabetical order; `EMPTY` places are left out."""
        names = self.store.take(rows[rows != EMPTY], ["id"])["id"]
        return sorted(names.to_pylist())

    def check(self, step: int, digest: int) -> None:
        """Raises MghError unless `digest`, of all ranks together, is that of the plan's records."""
        rows = self.plan.batch(step)
        if digest != records_digest(self.plan.index.id_hash[rows[rows != EMPTY]], step):
            raise MghError(
                f"step {step + 1}: the ranks trained on other records than the plan says; checkpoints are "
                "untouched. Remove the folder of shards and start again"
            )

    def _write(self, step: int, problem: str | None) -> None:
        if self._error is not None:
            return
        try:
            entry: dict[str, Any] = {
                "step": step + 1,
                "stage": self.plan.stage(step).index,
                "ids": self.ids(self.plan.batch(step)),
            }
            self.lines.append(entry | ({"skipped": problem} if problem else {}))
        except Exception as error:  # nobody else would see what ends a thread
            self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


def records_digest(id_hash: np.ndarray, step: int) -> int:
    """Of a step's records, whatever their order: their hashes, mixed under the step, added up modulo 2⁶⁴. The
    digests of parts add up to that of the whole.

    Args:
        id_hash: uint64 [n].
    """
    return int(mix64(id_hash, fold_key(step)).sum(dtype=np.uint64))


def hashed(ids: Iterable[str]) -> np.ndarray:
    """As the store hashes record ids, uint64 [n]; "" is an empty place and left out."""
    return np.array([hash64(name) for name in ids if name], dtype=np.uint64)


def halves(digest: int) -> tuple[float, float]:
    """The low and high 32 bits, each of which a float64 holds exactly, as it does their sums over ranks."""
    return float(digest % HALF), float(digest // HALF)


def whole(low_and_high: Sequence[float]) -> int:
    """The digest of all ranks, from the sums of their halves."""
    low, high = map(int, low_and_high)
    return (low + high * HALF) % 2**64
