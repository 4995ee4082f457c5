"""What the loss of a step holds and receives, by the way candidates are gathered.

    python -m benchmarks.gather [--records 8192] [--dimension 512] [--ranks 4]

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
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist

from benchmarks import environment
from benchmarks.timing import MIB, peak_mib_in_fresh_process
from mgh_ds.common import files
from mgh_ds.losses import InfoNCESettings, info_nce
from mgh_ds.losses.base import Labels
from mgh_ds.losses.gather import Exchange
from mgh_ds.losses.info_nce import InfoNCE

RESULTS = Path(__file__).parent / "results"
NEGATIVES = 4
FLOAT_BYTES = 4
KEY_BYTES = 4 * 8  # of a text: its hash, its partner's, its negative group and its standing
MISTRAL, WORLD_SIZES = 4096, (64, 256, 1024)
# Scores that are not cut into blocks grow with the records squared: they are measured at this share of them.
UNCUT_SHARE = 2


class Way(NamedTuple):
    """What ranks send each other, and how."""

    gather: Literal["whole", "ring"]
    own_negatives_only: bool
    symmetric: bool = False


class Row(NamedTuple):
    """One measurement, or what is computed for its like.

    Attributes:
        records: of the negative group.
        dimension: of the embeddings.
        ranks: that they are spread over.
        gather: as `training.gather`.
        own_negatives_only: as `training.loss.own_negatives_only`.
        block: numbers that a block of scores may have.
        held_mib: computed: see `held_bytes`.
        received_mib: computed: by a rank, forward and backward.
        peak_mib: measured: of the rank that took most.
    """

    records: int
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
        "measured": [row._asdict() for row in _measure(options.records, options.dimension, options.ranks)],
        "computed": [
            _row(way, options.records, MISTRAL, ranks)._asdict()
            for ranks, way in itertools.product(WORLD_SIZES, ways())
        ],
    }
    files.write_json(options.output / "gather-cpu.json", found)
    print((options.output / "gather-cpu.json").read_text(encoding="utf-8"))
    return 0


def received_bytes(
    way: Way,
    records: int,
    negatives: int,
    dimension: int,
    ranks: int,
    float_bytes: int = FLOAT_BYTES,
    guide: int = 0,
) -> int:
    """What a rank receives for the loss of one step, forward and backward, from the others of its group.

    Args:
        way: what is sent, and how.
        records: on this rank.
        negatives: of a record.
        dimension: of the embeddings.
        ranks: in the group, this one included.
        float_bytes: of an embedding's entry.
        guide: dimension of a guide's embeddings, which travel with the keys; 0 without one.
    """
    texts = records * (_documents(way, negatives) + way.symmetric)
    vectors, keys = texts * dimension * float_bytes, texts * (KEY_BYTES + guide * float_bytes)
    others = ranks - 1
    if way.gather == "whole":
        return others * (vectors + keys) + others * vectors  # all-gather, then reduce-scatter
    # The candidates go round twice; on the second trip their gradient goes with them, and one hop further.
    home = ranks * vectors if others else 0
    return 2 * others * (vectors + keys) + home


def held_bytes(way: Way, records: int, negatives: int, dimension: int, ranks: int, block: int) -> int:
    """What a rank holds at once for the documents of its group: embeddings, their gradient, and a block of
    scores with the gradient that follows from it."""
    own = records * _documents(way, negatives)
    # Whole: its own, everyone's and their gradient. Ring: its own, those that visit, those that come next,
    # and a gradient for both.
    vectors = own + (2 * own * ranks if way.gather == "whole" else 4 * own)
    columns = min(own * (ranks if way.gather == "whole" else 1), block // max(records, dimension))
    return (vectors * dimension + columns * (records + dimension)) * FLOAT_BYTES


def _documents(way: Way, negatives: int) -> int:
    """Of a record, that other ranks see."""
    return 1 if way.own_negatives_only else 1 + negatives


def _row(way: Way, records: int, dimension: int, ranks: int, block: int = info_nce.BLOCK) -> Row:
    shape = records // ranks, NEGATIVES, dimension, ranks
    return Row(
        records,
        dimension,
        ranks,
        way.gather,
        way.own_negatives_only,
        block,
        held_bytes(way, *shape, block) / MIB,
        received_bytes(way, *shape) / MIB,
    )


def ways() -> list[Way]:
    """Every way to gather."""
    return [Way(gather, own) for own in (False, True) for gather in ("whole", "ring")]


def _measure(records: int, dimension: int, ranks: int) -> Iterator[Row]:
    uncut = records**2 * (1 + NEGATIVES)
    cases = [(Way("whole", False), records // UNCUT_SHARE, block) for block in (uncut, info_nce.BLOCK)]
    cases += [(way, records, info_nce.BLOCK) for way in ways()]
    for way, size, block in cases:
        row = _row(way, size, dimension, ranks, block)
        yield row._replace(peak_mib=_peak_mib(way, size, dimension, ranks, block))


def _peak_mib(way: Way, records: int, dimension: int, ranks: int, block: int) -> float:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(ranks) as threads:
        peaks = [
            threads.submit(
                peak_mib_in_fresh_process,
                _prepare,
                rank,
                ranks,
                Path(folder) / "meeting",
                way,
                records // ranks,
                dimension,
                block,
            )
            for rank in range(ranks)
        ]
        return max(peak.result() for peak in peaks)


def _prepare(
    rank: int, ranks: int, meeting: Path, way: Way, records: int, dimension: int, block: int
) -> Callable[[], Any]:
    """One rank's loss, forward and backward, with random embeddings."""
    torch.set_num_threads(1)  # the processes share the cores
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    dist.barrier()
    info_nce.BLOCK = block
    embeddings = torch.randn(records, 2 + NEGATIVES, dimension, generator=torch.Generator().manual_seed(rank))
    texts = torch.arange(records * (2 + NEGATIVES)).view(records, -1) + rank * records * (2 + NEGATIVES)
    embeddings = torch.nn.functional.normalize(embeddings, dim=-1).requires_grad_()
    labels = Labels(
        valid=torch.ones(records, dtype=torch.bool),
        document_valid=torch.ones(records, 1 + NEGATIVES, dtype=torch.bool),
        levels=torch.zeros(records, NEGATIVES, dtype=torch.int64),
        query_hash=texts[:, 0],
        document_hash=texts[:, 1:],
        symmetric=torch.zeros(records, dtype=torch.bool),
        group=torch.zeros(records, dtype=torch.int64),
        scores=torch.full((records, 1 + NEGATIVES), torch.nan),
    )
    settings = InfoNCESettings(own_negatives_only=way.own_negatives_only)
    loss = InfoNCE(settings, Exchange(way.gather))
    return lambda: loss(embeddings, labels).total.backward()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gather", description=__doc__)
    parser.add_argument("--records", type=int, default=8192, help="records of the global batch")
    parser.add_argument("--dimension", type=int, default=512, help="of the measured embeddings")
    parser.add_argument("--ranks", type=int, default=4, help="processes of the measurement")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for gather-cpu.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
