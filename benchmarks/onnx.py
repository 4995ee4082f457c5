"""What an ONNX graph gains on a CPU: a model's texts encoded by torch, by onnxruntime, and in 8 bits.

    python -m benchmarks.onnx                                       # MiniLM with ATA and with mean pooling
    python -m benchmarks.onnx --models tiny-random/llama --texts 16 --rounds 3

All do the same texts with the same encoder around them, tokenising and batches included. They take
turns, each round in the other order; the ratio is taken round by round. Writes `onnx-cpu.csv`.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch

from benchmarks import environment, table
from benchmarks.encoding import RECORDS
from benchmarks.kernel import RESULTS
from benchmarks.step import take_turns
from mgh_ds.common.extras import need
from mgh_ds.model.config import PoolingMethod
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.onnx_model import FILES, Backend
from mgh_ds.model.weights import MINILM
from mgh_ds.records.store import open_or_convert

CPU = torch.device("cpu")
PACKAGES = ("onnxruntime", "onnxscript", "onnx")


class OnnxRow(NamedTuple):
    """A model by one back end. `of_torch` is the median over the rounds of its time divided by torch's,
    between its quartiles; `least_cosine` and `mean_cosine` compare its vectors with torch's."""

    model: str
    pooling: str
    backend: str
    texts: int
    threads: int
    seconds: float
    texts_per_s: float
    of_torch: float
    lower_quartile: float
    upper_quartile: float
    least_cosine: float
    mean_cosine: float
    mib: float
    rounds: int


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    need("onnx", "this benchmark")
    if options.threads:
        torch.set_num_threads(options.threads)
    texts = bundled_texts(options.texts)
    rows = [
        row
        for model in options.models
        for pooling in options.poolings
        for row in measure(model, pooling, texts, options.batch_size, options.rounds)
    ]
    versions = {name: environment.version(name) for name in PACKAGES}
    table.write(options.output / "onnx-cpu.csv", environment.describe(CPU) | versions, OnnxRow._fields, rows)
    for row in rows:
        print(
            f"{row.model}, {row.pooling}: {row.backend} takes {row.of_torch:.2f} of torch's time "
            f"({row.lower_quartile:.2f} to {row.upper_quartile:.2f}), {row.texts_per_s:,.0f} texts/s; cosine "
            f"to torch {row.least_cosine:.6f} or more, {row.mean_cosine:.6f} on average; {row.mib:.0f} MiB"
        )
    return 0


def measure(
    name: str, pooling: PoolingMethod, texts: Sequence[str], batch_size: int = 32, rounds: int = 7
) -> list[OnnxRow]:
    """A row for each back end, torch first."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "export"
        Encoder.from_pretrained(name, pooling, device=CPU).save(folder, onnx=True, int8=True)
        backends = get_args(Backend)
        encoders = {
            backend: Encoder.from_pretrained(folder, backend=backend, device=CPU) for backend in backends
        }
        sizes = {
            backend: sum(path.stat().st_size for path in folder.glob(f"{FILES.get(backend, 'model')}*"))
            for backend in backends
        }
        vectors = {
            backend: encoder.encode(texts, batch_size=batch_size) for backend, encoder in encoders.items()
        }
        calls = {backend: _encoding(encoder, texts, batch_size) for backend, encoder in encoders.items()}
        milliseconds = take_turns(calls, CPU, rounds)
    rows = []
    for backend in backends:
        times, cosines = milliseconds[backend], (vectors["torch"] * vectors[backend]).sum(1)
        ratios = [ours / torchs for ours, torchs in zip(times, milliseconds["torch"], strict=True)]
        lower, median, upper = np.percentile(ratios, (25, 50, 75)).tolist()
        seconds = statistics.median(times) / 1e3
        rows.append(
            OnnxRow(
                name,
                pooling,
                backend,
                texts=len(texts),
                threads=torch.get_num_threads(),
                seconds=seconds,
                texts_per_s=len(texts) / seconds,
                of_torch=median,
                lower_quartile=lower,
                upper_quartile=upper,
                least_cosine=float(cosines.min()),
                mean_cosine=float(cosines.mean()),
                mib=sizes[backend] / 2**20,
                rounds=rounds,
            )
        )
    return rows


def bundled_texts(count: int) -> list[str]:
    """The first so many queries and positives of the bundled records."""
    with tempfile.TemporaryDirectory() as folder:
        records = open_or_convert(RECORDS, Path(folder) / "data")
        found = [text for record in records for text in (record.query, record.positive)]
    return found[:count]


def _encoding(encoder: Encoder, texts: Sequence[str], batch_size: int) -> Callable[[], None]:
    def encode() -> None:
        encoder.encode(texts, batch_size=batch_size)

    return encode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.onnx", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--models", nargs="+", default=[MINILM], help="names or folders")
    parser.add_argument(
        "--poolings",
        nargs="+",
        choices=get_args(PoolingMethod),
        default=["ata", "mean"],
        help="of each model",
    )
    parser.add_argument("--texts", type=int, default=512, help="of the bundled records")
    parser.add_argument("--batch-size", type=int, default=32, help="texts that are encoded at once")
    parser.add_argument("--rounds", type=int, default=7, help="calls of each back end")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
