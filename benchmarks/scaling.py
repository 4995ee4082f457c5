"""What a training step communicates, counted in bytes; nothing is timed and nothing is projected.

    python -m benchmarks.scaling          # at once; writes scaling.md

Counted for Mistral-7B with LoRA in bf16: what the loss gathers, for each way to gather, and what ZeRO-2
exchanges for gradients and weights. That real ranks communicate just so many bytes is what
tests/losses/test_gather.py and tests/benchmarks/test_scaling.py prove.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.gather import received_bytes, ways
from benchmarks.shapes import Shapes
from mgh_ds.common import files
from mgh_ds.common.score_tables import markdown_table

RESULTS = Path(__file__).parent / "results"
BF16, FP32 = 2, 4  # bytes
RANKS = (8, 64, 256, 1024)
BATCHES = ((512, 1), (8192, 4))  # records in the global batch, and negatives of each
GROUPS = (1, 4)  # negative groups that the batch is cut into


class Exchange(NamedTuple):
    """ZeRO-2's collectives in a step, in bytes of the whole tensor: gradients are all-reduced in one, updated
    weights gathered in the other."""

    gradients: int
    weights: int

    def received(self, ranks: int) -> float:
        """What a rank receives where both go round a ring: an all-reduce goes round twice."""
        return (2 * self.gradients + self.weights) * (ranks - 1) / ranks


def zero2_exchange(trainable: int, ranks: int, weight_bytes: int) -> Exchange:
    """What `trainable` parameters cause, whatever the batch.

    Gradients travel in fp32 (`communication_data_type`) and DeepSpeed all-reduces the whole of them, although
    a rank keeps a part. Weights travel in the model's dtype, filled up to an even number for every rank.
    """
    filled = -(-trainable // (2 * ranks)) * 2 * ranks
    return Exchange(FP32 * trainable, weight_bytes * filled)


def report() -> str:
    """The counts as Markdown."""
    trainable, hidden = Shapes().lora_parameters, Shapes().hidden
    header = [f"{ranks:,} ranks" for ranks in RANKS]
    zero2 = [zero2_exchange(trainable, ranks, BF16).received(ranks) for ranks in RANKS]
    about = (
        "Written by `python -m benchmarks.scaling`: MB that a rank receives in a step, counted. Nothing here "
        "is timed. [docs/scaling.md](../../docs/scaling.md) has the formulas."
    )
    parts = [
        "# Bytes of a training step",
        about,
        "## ZeRO-2",
        f"Mistral-7B with LoRA of rank {Shapes().rank}: {trainable:,} trainable parameters.",
        markdown_table(["", *header], [["gradients and weights", *map(_megabytes, zero2)]]),
    ]
    for records, negatives in BATCHES:
        parts += [
            f"## Loss: {records:,} records, negatives {negatives}",
            markdown_table(["gather", "groups", *header], _rows(records, negatives, hidden), text_columns=2),
        ]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for scaling.md")
    options = parser.parse_args(arguments)
    files.write_text(options.output / "scaling.md", report())
    print(report())
    return 0


def _rows(records: int, negatives: int, dimension: int) -> Iterator[list[str]]:
    for way in ways():
        name = f"{way.gather}, positives only" if way.own_negatives_only else way.gather
        for groups in GROUPS:
            received = [
                received_bytes(way, records // ranks, negatives, dimension, ranks // groups)
                if records >= ranks
                else None
                for ranks in RANKS
            ]
            yield [name, str(groups), *map(_megabytes, received)]


def _megabytes(size: float | None) -> str:
    return "–" if size is None else f"{size / 1e6:,.1f}"


if __name__ == "__main__":
    sys.exit(main())
