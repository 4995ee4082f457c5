"""Mining beside sentence-transformers' `mine_hard_negatives`: the same pairs, corpus, model and depth.

    python -m benchmarks.mining                                                  # the bundled MGH records
    python -m benchmarks.mining --records RECORDS --corpus CORPUS --documents 20000

The run fails where the two find other negatives. Writes `cpu-mining.csv`; peak memory is the process's own,
resident.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import table
from benchmarks.kernel import RESULTS
from benchmarks.turns import CONTENDERS, Comparison, Turns, compare, surroundings, take_turns
from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.encoding.corpus import Corpus
from mgh_ds.model.weights import MINILM, resolve_model
from mgh_ds.records.store import open_or_convert

# Of the negatives, those that only one of both may find: batches and sums differ in float32's last bits,
# which decides near a border.
MOST_DIFFERENT = 0.02


class Mined(NamedTuple):
    """What the figures of a `Comparison` are of."""

    model: str
    records: str
    queries: int
    documents: int
    depth: int
    negatives: int
    threads: int
    rounds: int
    same_negatives: float


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="mining.") as name:
        job = prepare(options, Path(name))
        mined, figures = measure(options, job, Path(name))
    columns = (*Mined._fields, *Comparison._fields)
    table.write(options.output / "cpu-mining.csv", surroundings(), columns, [(*mined, *figures)])
    print(f"{figures.words}; {mined.same_negatives:.1%} of the negatives are the same")
    return 0


def prepare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Writes pairs with distinct queries, and the corpus: every positive, which theirs would add by itself,
    and documents beside them."""
    pairs: dict[str, dict[str, Any]] = {}
    positives: dict[str, None] = {}
    others: dict[str, None] = {}
    for record in itertools.islice(open_or_convert(options.records, folder / "data"), options.queries):
        if record.query not in pairs:
            pairs[record.query] = {**record.model_dump(), "negatives": []}
            positives[record.positive] = None
        if options.corpus is None:
            others |= dict.fromkeys(negative.text for negative in record.negatives)
    if options.corpus is not None:
        others |= dict.fromkeys(text.text for text in Corpus(options.corpus))
    texts = positives | others
    chosen = list(texts)[: max(options.documents or len(texts), len(positives))]
    _write(folder / "records.jsonl", pairs.values())
    _write(folder / "corpus.jsonl", ({"_id": str(n), "text": text} for n, text in enumerate(chosen)))
    return {
        "model": str(resolve_model(options.model)),
        "records": str(folder / "records.jsonl"),
        "corpus": str(folder / "corpus.jsonl"),
        "queries": len(pairs),
        "documents": len(chosen),
        "depth": options.depth,
        "negatives": options.negatives,
        "relative_max": 0.95,
        "batch_size": options.batch_size,
        "rounds": options.rounds + 1,
    }


def measure(options: argparse.Namespace, job: dict[str, Any], folder: Path) -> tuple[Mined, Comparison]:
    """Raises MghError if a contender fails, or if they find other negatives."""
    turns: Turns = take_turns("benchmarks.mining_worker", job, folder, options.threads)
    same = _same([turns[name][-1]["negatives"] for name in CONTENDERS])
    if same < 1 - MOST_DIFFERENT:
        raise MghError(f"only {same:.1%} of the negatives are the same: they did not do the same work")
    mined = Mined(
        model=options.model,
        records=str(options.records),
        queries=job["queries"],
        documents=job["documents"],
        depth=job["depth"],
        negatives=job["negatives"],
        threads=options.threads,
        rounds=options.rounds,
        same_negatives=same,
    )
    return mined, compare(turns)


def _same(found: Sequence[Sequence[Sequence[str]]]) -> float:
    """The share of negatives that both have. A query for which theirs finds too few is left out there."""
    both = [(set(a), set(b)) for a, b in zip(*found, strict=True) if b]
    union = sum(len(a | b) for a, b in both)
    return sum(len(a & b) for a, b in both) / union if union else 0.0


def _write(path: Path, rows: Iterable[Any]) -> None:
    files.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mining", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model", default=MINILM, help="a sentence-transformers model: a name or a folder")
    parser.add_argument("--records", type=Path, default=Path("mgh:train"), help="a store or MGH JSONL")
    parser.add_argument("--corpus", type=Path, help="default: the records' own documents")
    parser.add_argument("--queries", type=int, help="so many records at most")
    parser.add_argument("--documents", type=int, help="so many documents at most")
    parser.add_argument("--depth", type=int, default=50, help="ranks that are looked at")
    parser.add_argument("--negatives", type=int, default=4, help="of each query")
    parser.add_argument("--batch-size", type=int, default=32, help="texts that are encoded at once")
    parser.add_argument("--rounds", type=int, default=5, help="that count")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
