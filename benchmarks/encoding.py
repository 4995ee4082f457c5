"""Encoding a corpus beside sentence-transformers' `encode`: the same texts and model, files in and files out.

    python -m benchmarks.encoding                                   # the bundled MGH records' documents
    python -m benchmarks.encoding --corpus CORPUS --documents 5000

The run fails where the two find other vectors. Writes `cpu-encoding.csv`; peak memory is the process's own,
resident.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import table
from benchmarks.kernel import RESULTS
from benchmarks.turns import CONTENDERS, Comparison, Turns, compare, surroundings, take_turns
from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.encoding.corpus import Corpus
from mgh_ds.model.weights import MINILM, resolve_model
from mgh_ds.records.store import open_or_convert

RECORDS = Path("mgh:train")  # whose documents are the corpus where none is named
LEAST_COSINE = 0.9999  # of a text's two vectors, in float32


class Encoded(NamedTuple):
    """What the figures of a `Comparison` are of."""

    model: str
    corpus: str
    documents: int
    threads: int
    rounds: int
    least_cosine: float


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="encoding.") as name:
        encoded, figures = measure(options, prepare(options, Path(name)), Path(name))
    columns = (*Encoded._fields, *Comparison._fields)
    table.write(options.output / "cpu-encoding.csv", surroundings(), columns, [(*encoded, *figures)])
    print(f"{figures.words}; a text's vectors have a cosine of {encoded.least_cosine:.6f} at least")
    return 0


def prepare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Writes the corpus, each text once."""
    texts = list(dict.fromkeys(itertools.islice(_texts(options.corpus, folder), options.documents)))
    rows = [json.dumps({"_id": str(n), "text": text}, ensure_ascii=False) for n, text in enumerate(texts)]
    files.write_text(folder / "corpus.jsonl", "\n".join(rows) + "\n")
    return {
        "model": str(resolve_model(options.model)),
        "corpus": str(folder / "corpus.jsonl"),
        "documents": len(texts),
        "batch_size": options.batch_size,
        "rounds": options.rounds + 1,
    }


def measure(options: argparse.Namespace, job: dict[str, Any], folder: Path) -> tuple[Encoded, Comparison]:
    """Raises MghError if a contender fails, or if they find other vectors."""
    turns: Turns = take_turns("benchmarks.encoding_worker", job, folder, options.threads)
    ours, theirs = (
        np.concatenate([np.load(file, allow_pickle=False) for file in turns[name][-1]["files"]])
        for name in CONTENDERS
    )
    if ours.shape != theirs.shape:
        raise MghError(f"ours are {list(ours.shape)} vectors, theirs {list(theirs.shape)}")
    least = float((ours * theirs).sum(axis=1).min())
    if least < LEAST_COSINE:
        raise MghError(f"a text's two vectors have a cosine of {least:.6f}: they did not do the same work")
    encoded = Encoded(
        model=options.model,
        corpus=str(options.corpus or RECORDS),
        documents=job["documents"],
        threads=options.threads,
        rounds=options.rounds,
        least_cosine=least,
    )
    return encoded, compare(turns)


def _texts(corpus: Path | None, folder: Path) -> Iterator[str]:
    if corpus is not None:
        yield from (text.text for text in Corpus(corpus))
        return
    for record in open_or_convert(RECORDS, folder / "data"):
        yield from (record.positive, *(negative.text for negative in record.negatives))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encoding", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model", default=MINILM, help="a sentence-transformers model: a name or a folder")
    parser.add_argument("--corpus", type=Path, help="default: the documents of the bundled MGH records")
    parser.add_argument("--documents", type=int, help="so many documents at most")
    parser.add_argument("--batch-size", type=int, default=32, help="texts that are encoded at once")
    parser.add_argument("--rounds", type=int, default=5, help="that count")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
