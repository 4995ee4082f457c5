"""What a rank does in the tests of whole runs: train under a config, with a fault where the test asks for
one."""

import os
import signal
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from mgh_ds.curriculum.plan import EMPTY, Plan
from mgh_ds.errors import MghError
from mgh_ds.training import checkpoint, step, trainer
from mgh_ds.training.config import RunConfig
from mgh_ds.training.distributed import is_main, process_group, rank
from mgh_ds.training.inputs import Inputs, tokenize
from mgh_ds.training.run_folder import RunFolder


def train(config: RunConfig, kill_after: int | None = None, threads: int = 1) -> None:
    """Trains to the end, or until `kill_after` steps are done and rank 1 dies by SIGKILL."""
    folder = RunFolder(config.path)
    with process_group():
        torch.set_num_threads(threads)
        run = trainer.Trainer(config, folder)
        if kill_after is not None:
            _die_after(run, kill_after)
        run.train()


def train_expecting_error(config: RunConfig) -> None:
    """Trains and prints the MghError that stops it, on every rank."""
    try:
        train(config)
    except MghError as error:
        print(f"rank {os.environ['RANK']}: MghError: {error}")
    else:
        raise AssertionError("the run should have been refused")


def train_with_poison(config: RunConfig, word: str) -> None:
    """Trains while texts that hold `word` get an embedding of NaN."""
    original = step.embed

    def poisoned(model: torch.nn.Module, inputs: Inputs) -> torch.Tensor:
        marks = torch.tensor([word in query for query in inputs.batch.queries])
        return original(model, inputs) + torch.where(marks, torch.nan, 0.0)[:, None, None]

    step.embed = poisoned
    train_expecting_error(config)


def train_on_full_disk(config: RunConfig) -> None:
    """Trains while rank 1's checkpoint files cannot be written."""
    original = torch.save

    def failing(*arguments, **options):  # type: ignore[no-untyped-def]
        if rank() == 1:
            raise OSError(28, "No space left on device")
        original(*arguments, **options)

    torch.save = failing
    train_expecting_error(config)


def train_with_nan_gradient(config: RunConfig) -> None:
    """Trains while rank 1's gradient has a NaN."""
    original = trainer.make_engine

    def poisoned(model, *arguments):  # type: ignore[no-untyped-def]
        if rank() == 1:
            weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
            weights[0].register_hook(lambda gradient: gradient * torch.nan)
        return original(model, *arguments)

    trainer.make_engine = poisoned
    train_expecting_error(config)


def train_on_empty_batches(config: RunConfig) -> None:
    """Trains on a plan whose batches hold no record."""
    Plan.batch = lambda plan, _: np.full(plan.global_batch, EMPTY)  # type: ignore[method-assign]
    train_expecting_error(config)


def save_first_gradient(config: RunConfig, out: Path) -> None:
    """Writes the trained weights after one step, which every number of ranks should agree on, dropout
    included."""
    with process_group():
        run = trainer.Trainer(config, RunFolder(config.path / str(torch.distributed.get_world_size())))
        batches = run.loader.micro_batches(0, torch.distributed.get_world_size(), rank())
        inputs = [tokenize(batch, run.tokenizer) for batch in batches]
        step.train_step(run.engine, inputs, config.training.loss)
        if is_main():
            save_file(
                checkpoint.trainable_weights(run.model),
                out / f"{torch.distributed.get_world_size()}.safetensors",
            )


def _die_after(run: trainer.Trainer, steps: int) -> None:
    original = run.loader.micro_batches

    def dying(number, world_size, own_rank):  # type: ignore[no-untyped-def]
        if number == steps and own_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(number, world_size, own_rank)

    run.loader.micro_batches = dying  # type: ignore[method-assign]
