"""What bfloat16 gains on a CPU: the training step and the encoding of a model in it, against float32.

    python -m benchmarks.precision                                        # SmolLM2-135M
    ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 python -m benchmarks.precision    # as on a CPU without AMX

Both precisions take turns, each round in the other order, and the ratio is taken round by round. LoRA
adapters, packed texts of random tokens, InfoNCE within the batch, AdamW. Writes `cpu-precision.csv`, or with
a limited instruction set a file that names it.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import environment, table
from benchmarks.kernel import RESULTS
from benchmarks.step import Sizes, make_batch, take_turns, training_step
from mgh_ds.model.batches import PackedBatch
from mgh_ds.model.config import DTypeChoice, LoraConfig, ModelConfig, PoolingConfig
from mgh_ds.model.embedder import EmbeddingModel, build_model
from mgh_ds.model.precision import settle
from mgh_ds.model.weights import SMOLLM2

DTYPES: tuple[DTypeChoice, DTypeChoice] = ("float32", "bfloat16")
CPU = torch.device("cpu")


class PrecisionRow(NamedTuple):
    """One kind of work. `faster` is the median over the rounds of float32's time divided by bfloat16's,
    between its quartiles."""

    model: str
    work: str
    texts: int
    tokens: int
    threads: int
    float32_ms: float
    bfloat16_ms: float
    faster: float
    lower_quartile: float
    upper_quartile: float
    rounds: int
    auto: str


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    rows = measure(options.model, options.rounds, options.texts, options.longest)
    isa = os.environ.get("ONEDNN_MAX_CPU_ISA", "").lower()
    name = f"cpu-precision{'-' if isa else ''}{isa}.csv"
    table.write(options.output / name, environment.describe(CPU), PrecisionRow._fields, rows)
    for row in rows:
        quartiles = f"{row.lower_quartile:.2f} to {row.upper_quartile:.2f}"
        print(f"{row.work}: bfloat16 is {row.faster:.2f} times as fast ({quartiles}); auto is {row.auto}")
    return 0


def measure(name: str, rounds: int = 7, texts: int = 16, longest: int = 64) -> list[PrecisionRow]:
    """A row for a training step, and one for encoding."""
    works: dict[str, dict[DTypeChoice, Callable[[], None]]] = {"training step": {}, "encoding": {}}
    for dtype in DTYPES:
        model, batch = _prepare(name, dtype, texts, longest)
        adapters = [weight for weight in model.parameters() if weight.requires_grad]
        works["training step"][dtype] = training_step(model, batch, torch.optim.AdamW(adapters, lr=1e-5))
        works["encoding"][dtype] = _encoding(model, batch)
    rows = []
    for work, calls in works.items():
        for call in calls.values():  # chooses algorithms, lays weights out anew
            call()
        times = take_turns(calls, CPU, rounds)
        ratios = [a / b for a, b in zip(*(times[dtype] for dtype in DTYPES), strict=True)]
        lower, median, upper = np.percentile(ratios, (25, 50, 75)).tolist()
        rows.append(
            PrecisionRow(
                name,
                work,
                batch.texts,
                batch.tokens,
                torch.get_num_threads(),
                float32_ms=statistics.median(times["float32"]),
                bfloat16_ms=statistics.median(times["bfloat16"]),
                faster=median,
                lower_quartile=lower,
                upper_quartile=upper,
                rounds=rounds,
                auto=settle("auto", CPU),
            )
        )
    return rows


def _prepare(name: str, dtype: DTypeChoice, texts: int, longest: int) -> tuple[EmbeddingModel, PackedBatch]:
    config = ModelConfig(
        name_or_path=name, dtype=dtype, lora=LoraConfig(), pooling=PoolingConfig(), max_length=longest
    )
    model, _ = build_model(config)
    vocabulary = model.backbone.get_input_embeddings().num_embeddings
    return model.train(), make_batch(Sizes(vocabulary=vocabulary, texts=texts, longest=longest), CPU)


def _encoding(model: EmbeddingModel, batch: PackedBatch) -> Callable[[], None]:
    def encode() -> None:
        model.eval()  # training is measured first, with dropout
        with torch.inference_mode():
            model(batch)

    return encode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model", default=SMOLLM2, help="a name or a folder")
    parser.add_argument("--rounds", type=int, default=7, help="calls of each precision")
    parser.add_argument("--texts", type=int, default=16, help="texts in the batch, an even number")
    parser.add_argument("--longest", type=int, default=64, help="tokens of the longest text")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
