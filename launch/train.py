"""Trains, scores, exports and reports one run.

    deepspeed --num_accelerators 2 launch/train.py --config configs/demo.yaml [--training.steps 100 …]

One machine or many, CPU (gloo) or CUDA (NCCL): the launcher decides, the recipe stays. Started again, with
any number of ranks, a run goes on from its newest checkpoint.

The exit code says what to do next: 0 nothing; 1 mend what the last line says; 75 (it was asked to stop, by
SIGTERM, SIGUSR1, SIGUSR2 or Ctrl-C, and has saved) and 76 (a rank was lost) start the same command again.
"""

import os
import sys

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import rich

from mgh_ds.common import files
from mgh_ds.common.config import load_config
from mgh_ds.common.errors import MghError
from mgh_ds.distributed.exits import ExitCode
from mgh_ds.distributed.group import on_main, process_group
from mgh_ds.distributed.signals import StopRequest
from mgh_ds.distributed.watchdog import Watchdog
from mgh_ds.evaluation.results import EvaluationResult
from mgh_ds.evaluation.run import evaluate_heldout
from mgh_ds.evaluation.tables import comparison_table
from mgh_ds.model.encoder import Encoder
from mgh_ds.report.page import write_report
from mgh_ds.training.anchors import anchor_weights
from mgh_ds.training.config import RunConfig
from mgh_ds.training.export import export_run
from mgh_ds.training.run_folder import RunFolder
from mgh_ds.training.trainer import Trainer


def main(arguments: list[str]) -> ExitCode:
    config = load_config(RunConfig, [word for word in arguments if not word.startswith("--local_rank")])
    folder = RunFolder(config.path)
    with process_group(), StopRequest() as stop, Watchdog(config.training.silence_limit_s):
        trainer = Trainer(config, folder)
        on_main(lambda: score(trainer, "before"))
        if not trainer.train(stop):
            return ExitCode.STOPPED
        on_main(lambda: score(trainer, "after"))
        if trainer.asked_to_stop(stop):
            return ExitCode.STOPPED
        on_main(lambda: finish(trainer))
        return ExitCode.FINISHED


def score(trainer: Trainer, label: str) -> None:
    """Scores the held-out records, if there are any, and keeps the token weights of a few of their texts."""
    config, folder = trainer.config, trainer.folder
    if trainer.held_out is None or (label == "before" and folder.evaluation(label).exists()):
        return  # a resumed run is no longer untrained: its "before" stands
    records = list(trainer.held_out)
    texts = [record.positive for record in records[:: -(-len(records) // config.evaluation.anchor_texts)]]
    anchors = [entry for entry in folder.anchors() if entry["label"] != label]
    anchors += anchor_weights(trainer.model, trainer.tokenizer, texts, label)
    files.write_json(folder.path / "anchors.json", anchors)
    evaluate_heldout(
        Encoder(trainer.model, trainer.tokenizer, config.model.name_or_path),
        records,
        label=label,
        output=folder.evaluation(label),
        batch_size=config.evaluation.batch_size,
        instructions=config.model.use_instructions,
    )


def finish(trainer: Trainer) -> None:
    """Exports the model, writes the report and says what came of the run."""
    folder = trainer.folder
    export_run(folder.path, folder.export, replace=True)
    report = write_report(folder.path)
    if trainer.held_out is not None:
        before, after = (EvaluationResult.read(folder.evaluation(label)) for label in ("before", "after"))
        rich.print(comparison_table(before, after))
    run = files.read_json(folder.path / "run.json")
    print(
        f"{run['texts_per_s']:,.0f} texts/s, {run['tokens_per_s']:,.0f} tokens/s on {run['world_size']} ranks"
    )
    print(f"model:  {folder.export}\nreport: {report}")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (MghError, OSError) as error:
        own = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
        sys.exit(f"error: {error}" if own == "0" else ExitCode.MEND)
