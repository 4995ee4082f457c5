"""What a record's `source` says of the negatives that were mined for it, and whether it has room for that."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from mgh_ds.common.errors import MghError
from mgh_ds.mining.search import Int64s
from mgh_ds.records.relabelled import is_note
from mgh_ds.records.schema import MAX_SOURCE_KEYS
from mgh_ds.records.store import Store

BLOCK_ROWS = 4096


class Scores(NamedTuple):
    """Of a record's positive, and of the negatives that were mined for it."""

    positive: float = 0.0
    negatives: Sequence[float] = ()


@dataclass(frozen=True)
class Provenance:
    """Who mined: name and fingerprint of the encoder and of the cross-encoder, if there is one, and the index
    that found the candidates, if it is approximate."""

    model: str
    fingerprint: str
    judge: str | None = None
    judge_fingerprint: str | None = None
    index: str | None = None

    def asked(self) -> dict[str, str | None]:
        """For the report, which named no index when there was none."""
        return {name: value for name, value in asdict(self).items() if value is not None or name != "index"}

    def notes(self, ranks: Sequence[int], cosines: Scores, judged: Scores) -> dict[str, str]:
        """For `source`: rank and scores of each mined negative, in their order, which is that of the record's
        last negatives. `judged` counts where there is a cross-encoder."""
        said = {
            "mined_by": self.model,
            "mined_by_sha256": self.fingerprint,
            "mined_ranks": " ".join(map(str, ranks)),
            "mined_scores": _words(cosines.negatives),
            "mined_positive_score": f"{cosines.positive:.4f}",
        }
        if self.index is not None:
            said["mined_index"] = f"{self.index}, approximate"
        if self.judge is not None:
            said |= {
                "mined_judge": self.judge,
                "mined_judge_scores": _words(judged.negatives),
                "mined_judge_positive_score": f"{judged.positive:.4f}",
            }
        return said

    @property
    def keys(self) -> list[str]:
        """Those of `notes`."""
        return list(self.notes([], Scores(), Scores()))


def _words(scores: Sequence[float]) -> str:
    return " ".join(f"{score:.4f}" for score in scores)


MINED_KEYS = frozenset(Provenance("", "", "", "", "").keys)
"""All that any mining notes. They speak of its own negatives, so a later one's take their place."""


def of_negatives(key: str) -> bool:
    """Whether a key of `source` speaks of a record's negatives, mined or relabelled, and goes with them."""
    return key in MINED_KEYS or is_note(key)


def require_room(store: Store, rows: Int64s, noted: Collection[str], replaced: Callable[[str], bool]) -> None:
    """Raises MghError, with its id, if the `source` of a record at these rows has no room for the keys
    `noted` beside its own, of which those that are `replaced` go."""
    for start in range(0, len(rows), BLOCK_ROWS):
        found = store.take(rows[start : start + BLOCK_ROWS], ["id", "source"])
        counts = np.diff(found["source"].offsets.to_numpy())
        for place in np.flatnonzero(counts + len(noted) > MAX_SOURCE_KEYS).tolist():
            own = [key for key, _ in found["source"][place].as_py() if not replaced(key)]
            excess = len(own) + len(noted) - MAX_SOURCE_KEYS
            if excess > 0:
                raise MghError(
                    f"record {found['id'][place].as_py()!r} has {len(own)} keys in its source; {len(noted)} "
                    f"are noted beside them, and {MAX_SOURCE_KEYS} fit: take at least {excess} of its own out"
                )
