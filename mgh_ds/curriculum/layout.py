"""One epoch of a source, cut into global batches."""

import numpy as np

from mgh_ds.curriculum.mixing import fold_key, mix64
from mgh_ds.curriculum.ordering import order_by

EMPTY = -1


def make_layout(
    rows: np.ndarray,
    id_hash: np.ndarray,
    tasks: np.ndarray,
    lengths: np.ndarray,
    *,
    global_batch: int,
    window: int,
    key: int,
) -> np.ndarray:
    """Puts each of `rows` into exactly one global batch.

    A task's records fill batches of their own; what is left of the tasks is mixed. `window` batches at a time
    are sorted by length before they are cut. The batches follow one another in an order of their own.

    Args:
        rows: the source's records, ascending, int32 [m].
        id_hash: of all records, uint64 [n]; who stands where follows from these and `key`.
        tasks: of all records, numbers from 0, int32 [n]; all 0 mixes everything.
        lengths: of all records, int32 [n].

    Returns rows, int32 [batches, global_batch], filled up with `EMPTY`.
    """
    span = window * global_batch
    random = mix64(id_hash[rows], key)
    shuffled = order_by(tasks[rows], random)  # task by task
    task = tasks[rows[shuffled]]
    counts = np.bincount(task)
    place = np.arange(len(task), dtype=np.int32) - np.repeat(_starts(counts), counts)
    whole = place < (counts // global_batch * global_batch)[task]
    rest = shuffled[~whole]
    rest = rest[order_by(0, random[rest])]

    spans = -(-counts // span)
    windows = _starts(spans)[task[whole]] + place[whole] // np.int32(span)
    mixed_windows = spans.sum() + np.arange(len(rest)) // span
    ordered = rows[np.concatenate([shuffled[whole], rest])]
    ordered = ordered[order_by(np.concatenate([windows, mixed_windows]), lengths[ordered])]

    batches = -(-len(ordered) // global_batch)
    layout = np.full(batches * global_batch, EMPTY, dtype=np.int32)
    layout[: len(ordered)] = ordered
    order = order_by(0, mix64(np.arange(batches), fold_key(key, 1)))
    return layout.reshape(batches, global_batch)[order]


def _starts(counts: np.ndarray) -> np.ndarray:
    """Where each of several runs of these lengths begins, int32 [n]."""
    return (np.cumsum(counts) - counts).astype(np.int32)
