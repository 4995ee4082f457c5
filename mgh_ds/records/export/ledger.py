"""What became of the records in an export: written, left out, and which parts a format had no place for."""

from collections import Counter
from collections.abc import Collection

from mgh_ds.records.schema import Record

ALL = frozenset({"ids", "subtypes", "instructions", "languages", "negatives", "levels", "scores", "sources"})
"""The parts of a record that not every format keeps."""


class Ledger:
    """Counts.

    Attributes:
        records: that were written.
        rows: that they became.
        left_out: reason → records that were not written.
        lost: part of a record → how many of those written lost it; of negatives, levels and scores, how many.
        notes: something that the user should know → how often it is so.
    """

    def __init__(self) -> None:
        self.records = self.rows = 0
        self.left_out: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()

    def add(self, record: Record, keeps: Collection[str], rows: int = 1, **lost: int) -> None:
        """Counts a record as written. `keeps` are the parts that the format keeps; `lost`, how much of those
        it could not keep of this record."""
        self.records += 1
        self.rows += rows
        for part, count in _parts(record).items():
            gone = lost.get(part, 0) if part in keeps else count
            if gone:
                self.lost[part] += gone


def _parts(record: Record) -> dict[str, int]:
    """How much of each part there is to lose."""
    return dict.fromkeys(sorted(ALL), 1) | {
        "negatives": len(record.negatives),
        "levels": sum(negative.level is not None for negative in record.negatives),
        "scores": sum(score is not None for score in record.scores),
    }
