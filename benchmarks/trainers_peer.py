"""A turn of sentence-transformers 6 in `benchmarks.trainers`: trains as a `Job` says, and reports.

    .venv-peers/bin/python -P benchmarks/trainers_peer.py JOB RESULT

Runs in an environment of its own (requirements/trainers.txt) and imports nothing of this project.
"""

import json
import sys
import time
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

MEGA_BATCHES = 50  # batches that transformers sorts by length together, where there are so many


class Trainer(SentenceTransformerTrainer):
    """Notes each step's loss, texts, tokens and places (tokens with padding)."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        masks = [value for name, value in inputs.items() if name.endswith("attention_mask")]
        loss = super().compute_loss(model, inputs, *arguments, **options)
        self.noted.append(
            {
                "loss": loss.item(),
                "texts": sum(len(mask) for mask in masks),
                "tokens": sum(int(mask.sum()) for mask in masks),
                "places": sum(mask.numel() for mask in masks),
            }
        )
        return loss


class Clock(TrainerCallback):
    """When each step was done."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.moments.append(time.perf_counter())


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


def main(job_file: str, result_file: str) -> None:
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    model = make_model(job)
    micro_batch = job["micro_batch"]
    if micro_batch is None:
        loss = MultipleNegativesRankingLoss(model, scale=1 / job["temperature"])
    else:  # texts of a pass, as many as ours has in one
        texts = micro_batch * (2 + job["negatives"])
        loss = CachedMultipleNegativesRankingLoss(model, scale=1 / job["temperature"], mini_batch_size=texts)
    clock = Clock()
    trainer = Trainer(
        model=model,
        args=make_arguments(job, Path(result_file).parent),
        train_dataset=Dataset.from_list(json.loads(Path(job["rows"]).read_text(encoding="utf-8"))),
        loss=loss,
        callbacks=[clock],
    )
    trainer.noted = []
    trainer.train()
    steps = [{"moment": moment, **noted} for moment, noted in zip(clock.moments, trainer.noted, strict=True)]
    found = {"threads": torch.get_num_threads(), "torch": torch.__version__, "steps": steps}
    Path(result_file).write_text(json.dumps(found), encoding="utf-8")


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
