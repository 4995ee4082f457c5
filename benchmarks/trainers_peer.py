"""sentence-transformers 6 in `benchmarks.trainers`: trains as a `Job` says, a step a turn.

    .venv-peers/bin/python -m benchmarks.trainers_peer JOB GATE

Runs in an environment of its own (requirements/trainers.txt), which has nothing of this project but the gate.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

from benchmarks.gate import Gate

MEGA_BATCHES = 50  # batches that transformers sorts by length together, where there are so many


class Trainer(SentenceTransformerTrainer):
    """Notes the last step's loss, texts, tokens and places, which are tokens with padding."""

    noted: dict[str, Any]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        masks = [value for name, value in inputs.items() if name.endswith("attention_mask")]
        loss = super().compute_loss(model, inputs, *arguments, **options)
        self.noted = {
            "loss": loss.item(),
            "texts": sum(len(mask) for mask in masks),
            "tokens": sum(int(mask.sum()) for mask in masks),
            "places": sum(mask.numel() for mask in masks),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        return loss


class Turns(TrainerCallback):
    """Stops at the gate after each step."""

    def __init__(self, trainer: Trainer, gate: Gate) -> None:
        self.trainer, self.gate = trainer, gate

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.gate.stop(self.trainer.noted)


class InOrder(DefaultBatchSampler):
    """The rows as they come: the batches that our plan made."""

    def __init__(self, dataset: Any, batch_size: int, drop_last: bool, **options: Any) -> None:
        options.pop("generator", None)
        super().__init__(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last, **options)


class ByLength(InOrder):
    """Rows of like length together, as transformers groups them; length is the row's characters."""

    def __init__(self, dataset: Any, batch_size: int, drop_last: bool, **options: Any) -> None:
        super().__init__(dataset, batch_size, drop_last, **options)
        self.lengths = [sum(map(len, row.values())) for row in dataset]

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(0)
        size = self.batch_size
        order = get_length_grouped_indices(self.lengths, size, MEGA_BATCHES, generator)
        yield from (order[first : first + size] for first in range(0, len(order), size))


def main(job_file: str, descriptor: str) -> None:
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    model = make_model(job)
    trainer = Trainer(
        model=model,
        args=make_arguments(job, Path(job_file).parent),
        train_dataset=Dataset.from_list(json.loads(Path(job["rows"]).read_text(encoding="utf-8"))),
        loss=make_loss(job, model),
    )
    trainer.add_callback(Turns(trainer, Gate(int(descriptor), job["steps"])))
    trainer.train()


def make_loss(job: dict[str, Any], model: Any) -> Any:
    """All texts at once, or with gradient caching as many in a pass as ours has."""
    scale = 1 / job["temperature"]
    if job["micro_batch"] is None:
        return MultipleNegativesRankingLoss(model, scale=scale)
    texts = job["micro_batch"] * (2 + job["negatives"])
    return CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=texts)


def make_model(job: dict[str, Any]) -> Any:
    """The backbone in `job["model"]` with mean pooling, float32, on the CPU."""
    transformer = Transformer(job["model"], max_seq_length=job["max_length"])
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")
    if job["lora"] is not None:
        from peft import LoraConfig

        model.add_adapter(
            LoraConfig(
                r=job["lora"], lora_alpha=2 * job["lora"], lora_dropout=0.0, target_modules="all-linear"
            )
        )
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    return model


def make_arguments(job: dict[str, Any], folder: Path) -> Any:
    """One pass over the rows; nothing is logged, saved or shown."""
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=job["steps"],
        per_device_train_batch_size=job["global_batch"],
        batch_sampler=ByLength if job["by_length"] else InOrder,
        learning_rate=job["learning_rate"],
        lr_scheduler_type="linear",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        use_cpu=True,
        seed=0,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
