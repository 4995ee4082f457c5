"""What a rank does in the tests of whole runs: train under a config, with a fault where the test asks for
one."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum import Loader
from mgh_ds.curriculum.loader import MicroBatch
from mgh_ds.curriculum.plan import EMPTY, TrainingPlan
from mgh_ds.distributed.exits import ExitCode
from mgh_ds.distributed.group import is_main, process_group, rank, world_size
from mgh_ds.distributed.signals import StopRequest
from mgh_ds.distributed.watchdog import Watchdog
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.scoring import Scoring
from mgh_ds.training import checkpoint, prefetch, shared_encoder, stage_data, step, trainer
from mgh_ds.training.batch import Batch, make_batch
from mgh_ds.training.config import RunConfig
from mgh_ds.training.evaluations import Scorer
from mgh_ds.training.run_folder import RunFolder
from mgh_ds.training.state import trainable

RANK_PHASES = ("load", "shard", "boundary", "forward", "gather", "reduce", "update", "copy")
WRITER_PHASES = ("write", "digest", "commit", "prune")  # of rank 0's thread: before each of these
PHASES = RANK_PHASES + WRITER_PHASES


@dataclass(frozen=True)
class Fault:
    """What happens to one rank when it reaches a phase of a step (counted from 0) or later; what the writing
    thread does is rank 0's."""

    phase: str
    step: int
    rank: int = 1
    action: str = "kill"  # or "terminate": SIGTERM, as a scheduler sends it; or "nan"
    after: str = ""  # a checkpoint, such as "step-000002", that it waits for


def train(config: RunConfig, *faults: Fault, scorer: Scorer | None = None) -> int:
    """Trains to the end, or as far as the faults let it; returns launch/train.py's exit code."""
    folder = RunFolder(config.path)
    with process_group(), StopRequest() as stop, Watchdog(config.training.silence_limit_s):
        torch.set_num_threads(1)
        run = trainer.Trainer(config, folder, scorer or Scoring(config))
        for fault in faults:
            if rank() == min(fault.rank, world_size() - 1):
                _install(fault, run)
        return ExitCode.FINISHED if run.train(stop) else ExitCode.STOPPED


def train_expecting_error(config: RunConfig, *faults: Fault) -> None:
    """Trains and prints the MghError that stops it, on every rank."""
    try:
        train(config, *faults)
    except MghError as error:
        print(f"rank {os.environ['RANK']}: MghError: {error}")
    else:
        raise AssertionError("the run should have been refused")


def train_reporting_error(config: RunConfig) -> int:
    """Trains as launch/train.py does: what a person can mend ends in one line."""
    try:
        return train(config)
    except (MghError, OSError) as error:
        print(f"error: {error}")
        return ExitCode.MEND


def train_with_one_reader(config: RunConfig) -> int:
    """Trains where rank 0 alone can read checkpoints."""

    def fail(*_: Any) -> None:
        raise AssertionError("another rank than 0 reads a checkpoint")

    if int(os.environ["RANK"]) > 0:
        checkpoint.load = fail  # type: ignore[assignment]
    return train(config)


def train_failing_alone(config: RunConfig) -> int:
    """Rank 1 alone meets an error, in the middle of a step."""

    def fail(*_: Any) -> None:
        raise MghError("the paper jams")

    if int(os.environ["RANK"]) == 1:
        step.embed = fail  # type: ignore[assignment]
    return train_reporting_error(config)


def train_with_poison(config: RunConfig, word: str) -> None:
    """Trains while texts that hold `word` get an embedding of NaN."""
    original = step.embed

    def poisoned(texts: MicroBatch, tokenizer: Tokenizer) -> Batch:
        marked.update(name for name, query in zip(texts.ids, texts.queries, strict=True) if word in query)
        return make_batch(texts, tokenizer)

    def embedded(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        marks = torch.tensor([name in marked for name in batch.ids])
        return original(model, batch) + torch.where(marks, torch.nan, 0.0)[:, None, None]

    marked: set[str] = set()
    prefetch.make_batch, step.embed = poisoned, embedded
    train_expecting_error(config)


def train_on_empty_batches(config: RunConfig) -> None:
    """Trains on a plan whose batches hold no record."""
    TrainingPlan.batch = lambda plan, _: np.full(plan.global_batch, EMPTY)  # type: ignore[method-assign]
    train_expecting_error(config)


def save_first_gradient(config: RunConfig, out: Path) -> None:
    """Writes the trained weights after one step, which every number of ranks should agree on, dropout
    included."""
    with process_group():
        run = trainer.Trainer(config, RunFolder(config.path / str(world_size())))
        texts = Loader(run.store, run.plan).micro_batches(0, world_size(), rank())
        batches = [make_batch(one, run.tokenizer) for one in texts]
        step.train_step(run.engine, batches, run.objective.losses[0], run.plan.records(0))
        if is_main():
            weights = {name: weight.detach().clone() for name, weight in trainable(run.model).items()}
            save_file(weights, out / f"{world_size()}.safetensors")


def _install(fault: Fault, run: trainer.Trainer) -> None:
    """Wraps what the phase calls, so that the fault strikes in its middle."""
    current = {"step": 0}

    def strike() -> None:
        if current["step"] >= fault.step:
            number = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM}[fault.action]
            current["step"] = -1  # not again in this step
            while fault.after and not (run.folder.checkpoints / fault.after).is_dir():
                time.sleep(0.01)
            os.kill(os.getpid(), number)

    def note_step(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def noted(number: int, *arguments: Any) -> Any:
            current["step"] = number
            return original(number, *arguments)

        setattr(owner, name, noted)

    note_step(run, "_step")
    if fault.action == "nan":
        _poison(run, fault, current)
    elif fault.phase == "reduce":  # in the backward pass: some gradients are reduced already
        weight = list(trainable(run.model).values())[2]
        weight.register_hook(lambda gradient: (strike(), gradient)[1])
    else:
        owner, name = {
            "load": (prefetch, "make_batch"),
            "shard": (stage_data, "write_shard"),
            "boundary": (prefetch, "verify"),
            "forward": (step, "embed"),
            "gather": (step, "objective"),
            "update": (run.engine, "step"),
            "copy": (trainer, "collect"),
            "encode": (shared_encoder, "gather_bytes"),  # in an evaluation
            "write": (checkpoint, "write_file"),
            "digest": (checkpoint, "_digest"),
            "commit": (checkpoint.files, "sync_tree"),
            "prune": (checkpoint.CheckpointWriter, "_remove_others"),
        }[fault.phase]
        _before(owner, name, strike)


def _before(owner: Any, name: str, strike: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def struck(*arguments: Any, **options: Any) -> Any:
        strike()
        return original(*arguments, **options)

    setattr(owner, name, struck)


def _poison(run: trainer.Trainer, fault: Fault, current: dict[str, int]) -> None:
    """This rank's gradient, or its embeddings, are NaN at the fault's step ("forward", "reduce"); at every
    step if that is −1."""

    def now() -> bool:
        return fault.step in (-1, current["step"])

    if fault.phase == "reduce":
        weight = next(iter(trainable(run.model).values()))
        weight.register_hook(lambda gradient: gradient * torch.nan if now() else gradient)
        return
    original = step.embed
    step.embed = lambda model, batch: original(model, batch) * (torch.nan if now() else 1.0)
