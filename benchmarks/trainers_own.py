"""Our trainer in `benchmarks.trainers`: trains as a `Job` says, in this process, a step a turn.

    python -m benchmarks.trainers_own JOB GATE

JOB is a file, GATE the descriptor that `benchmarks.gate` reports to.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ata_attention import transformers as attention

from benchmarks.clocked_train import watch_steps
from benchmarks.gate import Gate
from benchmarks.step import attention_of
from benchmarks.trainers import Job, recipe
from mgh_ds.common import files
from mgh_ds.curriculum import Loader
from mgh_ds.distributed.group import process_group
from mgh_ds.distributed.signals import StopRequest
from mgh_ds.training.batch import make_batch
from mgh_ds.training.run_folder import RunFolder
from mgh_ds.training.trainer import Trainer


def main(job_file: str, descriptor: str) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # as mgh_ds.train does
    job = Job(**files.read_json(Path(job_file)))
    torch.set_num_threads(job.threads)
    gate = Gate(int(descriptor), job.steps)

    def take_turn(line: dict[str, Any]) -> dict[str, Any]:
        gate.stop(report(line))
        return {}

    watch_steps(take_turn)
    calls = count_calls(attention, "packed_attention")
    config = recipe(job, Path(job_file).parent)
    with process_group(), StopRequest() as stop:
        trainer = Trainer(config, RunFolder(config.path))
        trainer.train(stop)
        check_attention(trainer, job, calls())


def report(line: dict[str, Any]) -> dict[str, Any]:
    """Of a step, from its line in the metrics; nothing is padded, so that places are tokens."""
    texts, tokens = (round(line[f"{unit}_per_s"] * line["seconds"]) for unit in ("texts", "tokens"))
    return {
        "loss": line["loss"],
        "texts": texts,
        "tokens": tokens,
        "places": tokens,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def count_calls(owner: Any, name: str) -> Callable[[], int]:
    """Counts the calls of a function from now on; returns what tells how many there were."""
    original, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*arguments, **options)

    setattr(owner, name, counted)
    return lambda: calls


def check_attention(trainer: Trainer, job: Job, calls: int) -> None:
    """Raises AssertionError if a layer of a step, ATA's apart, ran anything but packed attention, or if ATA
    weighs as mean pooling does."""
    layers = trainer.model.backbone.config.num_hidden_layers - (job.pooling == "ata")
    micro_batches = job.global_batch // (job.micro_batch or job.global_batch)
    passes = 1 if micro_batches == 1 else 2 * micro_batches
    expected = job.steps * passes * layers
    assert calls == expected, f"packed attention ran {calls} times, not {expected}"
    if job.pooling == "ata":
        (texts, *_) = Loader(trainer.store, trainer.plan).micro_batches(0, 1, 0)
        (batch,) = make_batch(texts, trainer.tokenizer).tokens
        attention_of(trainer.model, batch)  # type: ignore[arg-type]  # padding_free: it is packed


if __name__ == "__main__":
    main(*sys.argv[1:])
