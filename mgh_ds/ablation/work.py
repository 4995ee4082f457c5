"""Runs one cell: training in a process of its own, then everything that it has no score for."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mgh_ds.ablation.grid import Cell
from mgh_ds.ablation.scores import Scores
from mgh_ds.ablation.scoring import CellScoring
from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.distributed.exits import ExitCode
from mgh_ds.distributed.group import free_port
from mgh_ds.model.encoder import Encoder
from mgh_ds.training.adapters import build_run_model
from mgh_ds.training.export import export_run

# The trainer stands above the rooms: it is started, not imported.
TRAINER = "mgh_ds.train"
PATIENCE_S = 60  # for a trainer that was told to stop and may be saving


def run_cell(
    cell: Cell,
    data: str,
    backbone: dict[str, str],
    scoring: CellScoring,
    ranks: int,
    say: Callable[[str], None],
) -> None:
    """Does what is left to do of a cell; nothing if it is finished. `say` is told what goes on.

    Raises MghError when training fails, with the trainer's last words, or when a score is not a number.
    """
    scores = Scores.read(cell.path)
    if scores is None:
        say(f"{cell.name}: training" if cell.arguments and cell.seed is not None else cell.name)
        train(cell, backbone, ranks)
        scores = Scores.of(cell, data, backbone)
        scores.write(cell.path)
    missing = [task for task in scoring.revisions if task not in scores.tasks]
    if not missing:
        return
    encoder = Encoder.from_pretrained(cell.path / "export")
    for task in missing:
        say(f"{cell.name}: {task}")
        scores.tasks[task] = scoring.score(encoder, cell, task)
        scores.write(cell.path)


def train(cell: Cell, backbone: dict[str, str], ranks: int) -> None:
    """Trains and exports a cell; started again it goes on from its newest checkpoint. The untrained model is
    exported as it is, and one between it and a trained one from that one's run."""
    if cell.seed is None:
        untrained = cell.config.model.replace(lora=None)
        if not (cell.path / "export").exists():
            Encoder(*build_run_model(untrained, backbone), untrained.name_or_path).save(cell.path / "export")
        return
    if cell.source is not None:
        export_run(
            cell.source, cell.path / "export", interpolate=cell.config.evaluation.interpolate, replace=True
        )
        return
    log = cell.path.parent / "logs" / f"{cell.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        code = _run([*_launcher(ranks), TRAINER, *cell.arguments], output)
    if code not in (ExitCode.FINISHED, ExitCode.SCORES_MISSING):  # the cells' scores are computed here
        raise MghError(f"training ended with exit code {code}: {_last_words(log)} (all of it: {log})")


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds a folder against a second ablation, and makes SIGTERM end this one with its trainer."""
    folder.mkdir(parents=True, exist_ok=True)
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        lock = files.hold_folder(
            folder,
            held=f"another ablation is at work in {folder}: choose another --output",
            lockless="see that no second ablation works in it",
        )
        with lock or contextlib.nullcontext():
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _launcher(ranks: int) -> list[str]:
    """What starts a module on so many ranks; the module's name comes after it."""
    if ranks == 1:
        return [sys.executable, "-m"]
    deepspeed = Path(sys.executable).with_name("deepspeed")
    return [str(deepspeed), "--num_accelerators", str(ranks), "--master_port", str(free_port()), "--module"]


def _run(command: Sequence[str], output: Any) -> int:
    """The exit code of a command, which ends when this process is interrupted."""
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _last_words(log: Path) -> str:
    """The line in which the trainer says what was wrong, else its last."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")]
    return (said or lines or ["it said nothing"])[-1].removeprefix("error: ")
