"""A contender of `benchmarks.mining`: mines the same pairs once a turn, and says how long that took.

python -m benchmarks.mining_worker JOB GATE
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.gate import take_part

Mined = list[list[str]]
"""The negatives of each pair."""


def ours(job: dict[str, Any], folder: Path) -> Mined:
    """`mgh-ds data mine` from its beginning: files in, a file out."""
    from mgh_ds.mining.commands import mine_command
    from mgh_ds.records.reader import read_records

    output = folder / "out"
    shutil.rmtree(output, ignore_errors=True)
    mine_command(
        Path(job["records"]),
        output,
        model=job["model"],
        corpus=Path(job["corpus"]),
        rank_max=job["depth"],
        negatives=job["negatives"],
        relative_max=job["relative_max"],
        batch_size=job["batch_size"],
        device="cpu",
    )
    return [
        [negative.text for negative in record.negatives] for record in read_records(output / "records.jsonl")
    ]


def theirs(job: dict[str, Any], folder: Path) -> Mined:
    """`mine_hard_negatives` of sentence-transformers, with its model loaded in every turn as ours is."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    def texts(name: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in Path(job[name]).read_text(encoding="utf-8").splitlines()]

    rows = [{"query": row["query"], "positive": row["positive"]} for row in texts("records")]
    found = mine_hard_negatives(
        Dataset.from_list(rows),
        SentenceTransformer(job["model"], device="cpu"),
        corpus=[row["text"] for row in texts("corpus")],
        range_max=job["depth"],
        relative_margin=1 - job["relative_max"],
        num_negatives=job["negatives"],
        sampling_strategy="top",
        output_format="labeled-list",
        batch_size=job["batch_size"],
        verbose=False,
    )
    found.to_json(folder / "out.jsonl")
    column = next(name for name in found.column_names if name not in ("query", "labels"))
    by_query = {row["query"]: row[column][1:] for row in found}  # the positive is first
    return [by_query.get(row["query"], []) for row in rows]


if __name__ == "__main__":
    take_part(sys.argv[1], sys.argv[2], {"ours": ours, "theirs": theirs}, "negatives")
