"""What the loss of a step holds and receives, by the way the pool is gathered.

    python -m benchmarks.gather [--pool 8192] [--dimension 512] [--ranks 4]

Measured: the peak memory of real ranks that talk over gloo, forward and backward, over what their embeddings
took before. Computed: the same for Mistral's dimension on up to 1,024 ranks. Writes `gather-cpu.json`.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from benchmarks import environment
from benchmarks.timing import MIB, peak_mib_in_fresh_process
from mgh_ds.common import files
from mgh_ds.training import loss
from mgh_ds.training.config import LossConfig
from mgh_ds.training.pool import Slots, contrast

RESULTS = Path(__file__).parent / "results"
NEGATIVES = 4
FLOAT_BYTES = 4
FACTS_BYTES = 3 * 8  # of a text: its hash, its partner's hash, its pool
MISTRAL, WORLD_SIZES = 4096, (64, 256, 1024)
# Scores that are not cut into blocks grow with the square of the pool: they are measured at this share of it.
UNCUT_SHARE = 2


class Row(NamedTuple):
    """One measurement, or what is computed for its like.

    Attributes:
        pool: valid slots of the global batch.
        dimension: of the embeddings.
        ranks: that share the pool.
        gather: as `loss.gather`.
        own_negatives_only: as `loss.own_negatives_only`.
        block: numbers that a block of scores may have.
        held_mib: computed: see `held_bytes`.
        received_mib: computed: by a rank, forward and backward.
        peak_mib: measured: of the rank that took most.
    """

    pool: int
    dimension: int
    ranks: int
    gather: str
    own_negatives_only: bool
    block: int
    held_mib: float
    received_mib: float
    peak_mib: float | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    found = {
        "environment": environment.describe(torch.device("cpu")),
        "negatives": NEGATIVES,
        "measured": [row._asdict() for row in _measure(options.pool, options.dimension, options.ranks)],
        "computed": [
            _row(config, options.pool, MISTRAL, ranks)._asdict()
            for ranks, config in itertools.product(WORLD_SIZES, ways())
        ],
    }
    files.write_json(options.output / "gather-cpu.json", found)
    print((options.output / "gather-cpu.json").read_text(encoding="utf-8"))
    return 0


def received_bytes(
    config: LossConfig,
    slots: int,
    negatives: int,
    dimension: int,
    ranks: int,
    float_bytes: int = FLOAT_BYTES,
) -> int:
    """What a rank receives for the loss of one step, forward and backward, from the others of its group.

    Args:
        config: the loss.
        slots: on this rank.
        negatives: of a slot.
        dimension: of the embeddings.
        ranks: in the group, this one included.
        float_bytes: of an embedding's entry.
    """
    texts = slots * (_documents(config, negatives) + config.symmetric)
    vectors, facts = texts * dimension * float_bytes, texts * FACTS_BYTES
    others = ranks - 1
    if config.gather == "whole":
        return others * (vectors + facts) + others * vectors  # all-gather, then reduce-scatter
    # The candidates go round twice; on the second trip their gradient goes with them, and one hop further.
    home = ranks * vectors if others else 0
    return 2 * others * (vectors + facts) + home


def held_bytes(config: LossConfig, slots: int, negatives: int, dimension: int, ranks: int, block: int) -> int:
    """What a rank holds at once for the documents of its group: embeddings, their gradient, and a block of
    scores with the gradient that follows from it."""
    own = slots * _documents(config, negatives)
    # Whole: its own, everyone's and their gradient. Ring: its own, those that visit, those that come next,
    # and a gradient for both.
    vectors = own + (2 * own * ranks if config.gather == "whole" else 4 * own)
    columns = min(own * (ranks if config.gather == "whole" else 1), block // max(slots, dimension))
    return (vectors * dimension + columns * (slots + dimension)) * FLOAT_BYTES


def _documents(config: LossConfig, negatives: int) -> int:
    """Of a slot, that other ranks see."""
    return 1 if config.own_negatives_only else 1 + negatives


def _row(config: LossConfig, pool: int, dimension: int, ranks: int, block: int = loss.BLOCK) -> Row:
    shape = pool // ranks, NEGATIVES, dimension, ranks
    return Row(
        pool,
        dimension,
        ranks,
        config.gather,
        config.own_negatives_only,
        block,
        held_bytes(config, *shape, block) / MIB,
        received_bytes(config, *shape) / MIB,
    )


def ways() -> list[LossConfig]:
    """Every way to gather, as a setting of the loss."""
    return [
        LossConfig(own_negatives_only=own, gather=gather)
        for own in (False, True)
        for gather in ("whole", "ring")
    ]


def _measure(pool: int, dimension: int, ranks: int) -> Iterator[Row]:
    uncut = pool**2 * (1 + NEGATIVES)
    cases = [(LossConfig(), pool // UNCUT_SHARE, block) for block in (uncut, loss.BLOCK)]
    cases += [(config, pool, loss.BLOCK) for config in ways()]
    for config, size, block in cases:
        row = _row(config, size, dimension, ranks, block)
        yield row._replace(peak_mib=_peak_mib(config, size, dimension, ranks, block))


def _peak_mib(config: LossConfig, pool: int, dimension: int, ranks: int, block: int) -> float:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(ranks) as threads:
        peaks = [
            threads.submit(
                peak_mib_in_fresh_process,
                _prepare,
                rank,
                ranks,
                Path(folder) / "meeting",
                config,
                pool // ranks,
                dimension,
                block,
            )
            for rank in range(ranks)
        ]
        return max(peak.result() for peak in peaks)


def _prepare(
    rank: int, ranks: int, meeting: Path, config: LossConfig, slots: int, dimension: int, block: int
) -> Callable[[], Any]:
    """One rank's loss, forward and backward, with random embeddings."""
    torch.set_num_threads(1)  # the processes share the cores
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    dist.barrier()
    loss.BLOCK = block
    embeddings = torch.randn(slots, 2 + NEGATIVES, dimension, generator=torch.Generator().manual_seed(rank))
    texts = torch.arange(slots * (2 + NEGATIVES)).view(slots, -1) + rank * slots * (2 + NEGATIVES)
    share = Slots(
        embeddings=torch.nn.functional.normalize(embeddings, dim=-1).requires_grad_(),
        valid=torch.ones(slots, dtype=torch.bool),
        document_valid=torch.ones(slots, 1 + NEGATIVES, dtype=torch.bool),
        query_hash=texts[:, 0],
        document_hash=texts[:, 1:],
        symmetric=torch.zeros(slots, dtype=torch.bool),
        pool=torch.zeros(slots, dtype=torch.int64),
    )
    return lambda: contrast(share, config, dist.group.WORLD)[0].backward()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gather", description=__doc__)
    parser.add_argument("--pool", type=int, default=8192, help="slots of the global batch")
    parser.add_argument("--dimension", type=int, default=512, help="of the measured embeddings")
    parser.add_argument("--ranks", type=int, default=4, help="processes of the measurement")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for gather-cpu.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
