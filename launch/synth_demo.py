"""From nothing to audited records with a small language model: plan, run, merge and audit in runs/synth-demo.

    python launch/synth_demo.py

Takes the model of configs/synth-demo.yaml from the Hugging Face cache or hub, and a tiny random one where
neither has it.
"""

import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from mgh_ds.common.config import load_config
from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.judges import load_embedder
from mgh_ds.model.weights import resolve_model
from mgh_ds.records.store import Store
from mgh_ds.synthesis.commands import audit_command, merge_command, plan_command, run_command, status_command
from mgh_ds.synthesis.config import SynthesisConfig

CONFIG = "configs/synth-demo.yaml"
FOLDER = Path("runs/synth-demo")
TINY = "tiny-random/chat"
EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"
EXAMPLES = 3


def main() -> None:
    model, is_noise = find_model(load_config(SynthesisConfig, ["--config", CONFIG]).engine.model)
    shutil.rmtree(FOLDER, ignore_errors=True)
    plan_command(["--config", CONFIG, "--engine.model", model], FOLDER)
    run_command(FOLDER, None)
    status_command(FOLDER)
    merge_command(FOLDER)
    audit_command(FOLDER, load_embedder(EMBEDDER, "mean"), EMBEDDER)
    show_examples()
    if is_noise:
        print(f"\nREMEMBER: {TINY} wrote noise. The machinery works; the records are worth nothing.")


def find_model(name: str) -> tuple[str, bool]:
    """`name` if that can be had, else the folder of the tiny random model; and whether it writes noise."""
    try:
        resolve_model(name)
        return name, False
    except MghError as error:
        print(
            f"{error}\nSo {TINY} takes its place, a model of a few random weights: ITS TEXT IS NOISE. What "
            "follows shows the machinery, and an audit that must find that the levels mean nothing."
        )
        return str(resolve_model(TINY)), True


def show_examples() -> None:
    """Prints a few records."""
    for record in list(Store.open(FOLDER / "merged"))[:EXAMPLES]:
        print(f"\n{record.task.subtype}, {record.language}: {record.task.instruction!r}")
        print(f"  query     {record.query!r}\n  positive  {record.positive!r}")
        for negative in record.negatives:
            print(f"  level {negative.level}   {negative.text!r}")


if __name__ == "__main__":
    try:
        main()
    except (MghError, OSError) as error:
        sys.exit(f"error: {error}")
