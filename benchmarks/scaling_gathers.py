"""What the ways to gather the pool cost: bytes that travel, and bytes and scores that a rank holds.

Shapes: B records in the global batch, K own negatives each, W ranks, d channels, fp32. Queries travel only
where the loss is symmetric. The hashes that travel with a text, 24 bytes, are left out.
"""

from typing import Literal, NamedTuple, get_args

from benchmarks.scaling_model import FP32

Option = Literal["whole", "positives", "pools", "ring"]
OPTIONS: tuple[Option, ...] = get_args(Option)


class Pool(NamedTuple):
    """One step's gather on one rank.

    Attributes:
        ranks: that gather together.
        gathered: bytes of embeddings that those ranks bring together.
        sent: bytes that a rank sends, forward and backward.
        held: bytes of gathered or visiting embeddings, and of their gradients, that it holds at once.
        columns: candidates of a row among them.
    """

    ranks: int
    gathered: int
    sent: float
    held: int
    columns: int


def pool(
    option: Option, records: int, negatives: int, width: int, ranks: int, *, symmetric: bool, pools: int
) -> Pool:
    """`pools`: how many pools the option `pools` cuts the batch into; it must divide `records` and
    `ranks`."""
    queries = records if symmetric else 0
    if option == "positives":
        gathered = (records + queries) * width * FP32
        return _gather(ranks, gathered, records + negatives)
    if option == "pools":
        return pool("whole", records // pools, negatives, width, ranks // pools, symmetric=symmetric, pools=1)
    gathered = (records * (1 + negatives) + queries) * width * FP32
    if option == "whole":
        return _gather(ranks, gathered, records * (1 + negatives))
    # Documents make ranks − 1 hops forward and again backward, where their gradients travel along and make
    # one hop more, home.
    chunk = gathered // ranks
    sent = chunk * (3 * (ranks - 1) + 1) if ranks > 1 else 0
    # The visitor and the next one on its way, the visitor's gradient and the next one's.
    return Pool(ranks, gathered, sent, 4 * chunk, records // ranks * (1 + negatives))


def _gather(ranks: int, gathered: int, columns: int) -> Pool:
    """All-gather forward, reduce-scatter backward; the gradient is as large as what was gathered."""
    return Pool(ranks, gathered, 2 * gathered * (ranks - 1) / ranks, 2 * gathered, columns)
