"""Assigns records to micro-batches and micro-batches to ranks, so that all carry about the same.

Things sorted by weight are assigned in rounds, one to each place, so that the weights of a round lie between
those of the round before and those of the round after. What any two places got then differs by at most the
heaviest minus the lightest, in either of the two ways used here:

- Records go to micro-batches, each round's heaviest to the micro-batch that has least so far. After any round
  two of them differ by no more than before, or by no more than the round's heaviest and lightest.
- Micro-batches go to ranks in snake order: first round left to right, second right to left, and so on. No
  weight is looked at, so a rank knows its numbers without looking at a record. The differences within all
  rounds together make up no more than the heaviest minus the lightest.
"""

import numpy as np

from mgh_ds.curriculum.layout import EMPTY


def snake(values: np.ndarray, width: int) -> np.ndarray:
    """Rounds of `width` places, [n / width, width], every second one turned round."""
    rounds = values.reshape(-1, width).copy()
    rounds[1::2] = rounds[1::2, ::-1]
    return rounds


def make_micro_batches(
    batch: np.ndarray, lengths: np.ndarray, micro_batch: int, negative_groups: int
) -> np.ndarray:
    """The global batch as numbered micro-batches.

    They are numbered from the heaviest to the lightest, and snake over the negative groups (micro-batch i
    belongs to group i % `negative_groups`), so that these weigh the same too.

    Args:
        batch: rows, int64 [global_batch].
        lengths: of these rows, 0 where a place is empty, int64 [global_batch].

    Returns int64 [global_batch / micro_batch, micro_batch].
    """
    order = _heaviest_first(lengths)
    rounds, added = (values[order].reshape(micro_batch, -1) for values in (batch, lengths))
    weights = np.zeros(rounds.shape[1], dtype=np.int64)
    members = np.empty_like(rounds)
    for number in range(micro_batch):
        lightest_first = np.argsort(weights, kind="stable")
        members[number, lightest_first] = rounds[number]
        weights[lightest_first] += added[number]
    numbered = snake(_heaviest_first(weights), negative_groups).ravel()
    return members.T[numbered]


def assign(count: int, negative_groups: int, world_size: int, rank: int) -> np.ndarray:
    """The numbers of a rank's micro-batches, int64 [ceil(count / world_size)], the heaviest first.

    Rank r keeps to negative group r % `negative_groups` where these divide the ranks; otherwise it takes from
    all of them.
    `EMPTY` stands where there are too few for all ranks.
    """
    if world_size % negative_groups == 0:
        numbers = np.arange(rank % negative_groups, count, negative_groups)
        place, ranks = rank // negative_groups, world_size // negative_groups
    else:
        numbers = snake(np.arange(count), negative_groups).ravel()  # by weight again
        place, ranks = rank, world_size
    padded = np.full(-(-count // world_size) * ranks, EMPTY)
    padded[: len(numbers)] = numbers
    return snake(padded, ranks)[:, place]


def _heaviest_first(weights: np.ndarray) -> np.ndarray:
    # A batch comes sorted by length, which a stable sort makes quick work of.
    return np.argsort(weights, kind="stable")[::-1]
