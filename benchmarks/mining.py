"""Mining beside sentence-transformers' `mine_hard_negatives`: the same pairs, corpus, model and depth.

    python -m benchmarks.mining                                                  # the bundled MGH records
    python -m benchmarks.mining --records RECORDS --corpus CORPUS --documents 20000

Each contender is a process that mines everything anew in each turn, model and files included; they take
turns, each round in the other order, and the ratio is taken round by round. The first round does not count.
The run fails where the two find other negatives. Writes `cpu-mining.csv`; peak memory is the process's own,
resident.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import environment, table
from benchmarks.gate import Runner
from benchmarks.kernel import RESULTS
from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.encoding.corpus import Corpus
from mgh_ds.model.weights import MINILM, resolve_model
from mgh_ds.records.store import open_or_convert

ROOT = Path(__file__).parents[1]
CONTENDERS = ("ours", "theirs")
# Of the negatives, those that only one of both may find: batches and sums differ in float32's last bits,
# which decides near a border.
MOST_DIFFERENT = 0.02


class MiningRow(NamedTuple):
    """`ratio` is the median over the rounds of our time divided by theirs, between its quartiles."""

    model: str
    records: str
    queries: int
    documents: int
    depth: int
    negatives: int
    threads: int
    ours_s: float
    theirs_s: float
    ratio: float
    lower_quartile: float
    upper_quartile: float
    ours_peak_mib: float
    theirs_peak_mib: float
    same_negatives: float
    rounds: int


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="mining.") as name:
        job = prepare(options, Path(name))
        row = measure(options, job, Path(name))
    table.write(options.output / "cpu-mining.csv", _environment(), MiningRow._fields, [row])
    print(
        f"ours takes {row.ratio:.2f} of their time ({row.lower_quartile:.2f} to {row.upper_quartile:.2f}); "
        f"peak memory {row.ours_peak_mib:,.0f} MiB against {row.theirs_peak_mib:,.0f} MiB; "
        f"{row.same_negatives:.1%} of the negatives are the same"
    )
    return 0


def prepare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Writes pairs with distinct queries, and the corpus: their positives, and documents beside them."""
    pairs: dict[str, dict[str, Any]] = {}
    texts: dict[str, None] = {}
    for record in itertools.islice(open_or_convert(options.records, folder / "data"), options.queries):
        if record.query not in pairs:
            pairs[record.query] = {**record.model_dump(), "negatives": []}
            texts[record.positive] = None
        if options.corpus is None:
            texts |= dict.fromkeys(negative.text for negative in record.negatives)
    if options.corpus is not None:
        texts |= dict.fromkeys(text.text for text in Corpus(options.corpus))
    chosen = list(texts)[: max(options.documents or len(texts), len(pairs))]
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


def measure(options: argparse.Namespace, job: dict[str, Any], folder: Path) -> MiningRow:
    """Raises MghError if a contender fails, or if they find other negatives."""
    turns = take_turns(job, folder, options.threads)
    same = _same([turns[name][-1]["negatives"] for name in CONTENDERS])
    if same < 1 - MOST_DIFFERENT:
        raise MghError(f"only {same:.1%} of the negatives are the same: they did not do the same work")
    seconds = {name: [turn["seconds"] for turn in turns[name][1:]] for name in CONTENDERS}
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)]
    lower, median, upper = np.percentile(ratios, (25, 50, 75)).tolist()
    return MiningRow(
        model=options.model,
        records=str(options.records),
        queries=job["queries"],
        documents=job["documents"],
        depth=job["depth"],
        negatives=job["negatives"],
        threads=options.threads,
        ours_s=statistics.median(seconds["ours"]),
        theirs_s=statistics.median(seconds["theirs"]),
        ratio=median,
        lower_quartile=lower,
        upper_quartile=upper,
        ours_peak_mib=turns["ours"][-1]["peak_mib"],
        theirs_peak_mib=turns["theirs"][-1]["peak_mib"],
        same_negatives=same,
        rounds=options.rounds,
    )


def take_turns(job: dict[str, Any], folder: Path, threads: int) -> dict[str, list[dict[str, Any]]]:
    """By contender, what it reported of each turn. Raises MghError with its last words if one fails."""
    settings = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
    settings["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    with contextlib.ExitStack() as stack:
        runners = {}
        for name in CONTENDERS:
            (folder / name).mkdir()
            files.write_json(folder / name / "job.json", {**job, "contender": name})
            command = [sys.executable, "-m", "benchmarks.mining_worker", str(folder / name / "job.json")]
            runner = Runner(command, os.environ | settings, folder / name / "log")
            runners[name] = stack.enter_context(runner)
            turns[name].append(_named(name, runner.report))  # alone, until its first turn is done
        for number in range(1, job["rounds"]):
            for name in CONTENDERS if number % 2 else reversed(CONTENDERS):
                runners[name].open()
                turns[name].append(_named(name, runners[name].report))
        for name, runner in runners.items():
            _named(name, runner.finish)
    return turns


def _named(name: str, call: Any) -> Any:
    try:
        return call()
    except RuntimeError as error:
        raise MghError(f"{name} failed:\n{error}") from None


def _same(found: Sequence[Sequence[Sequence[str]]]) -> float:
    """The share of negatives that both have. A query for which theirs finds too few is left out there."""
    both = [(set(a), set(b)) for a, b in zip(*found, strict=True) if b]
    union = sum(len(a | b) for a, b in both)
    return sum(len(a & b) for a, b in both) / union if union else 0.0


def _environment() -> dict[str, str]:
    theirs = environment.version("sentence-transformers")
    return environment.describe(torch.device("cpu")) | {"sentence-transformers": theirs}


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
