"""The model, data and batches that the gradient test's ranks and its reference share."""

import torch

from mgh_ds.curriculum import CurriculumConfig, TrainingPlan
from mgh_ds.losses import InfoNCESettings
from mgh_ds.model.config import LoraConfig, ModelConfig
from mgh_ds.model.embedder import EmbeddingModel, build_model
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.records.store import Store
from mgh_ds.training.config import DataConfig, RunConfig, TrainingConfig
from tests.losses.cases import CASES

GLOBAL_BATCH = 16
STEP = 1  # of 16 + 13 records in two batches, one is not full: see the assertion in the test

# Every way of gathering, the recipe's way and how it travels; then each of the losses. All with micro-batches
# of 4.
WAYS = {
    f"{gather}, {'own' if own else 'all'} negatives, {groups} groups": TrainingConfig(
        steps=4,
        global_batch=GLOBAL_BATCH,
        micro_batch=4,
        negative_groups=groups,
        gradient_clipping=0.0,
        gather=gather,
        loss=InfoNCESettings(
            temperature=0.05,
            own_negatives_only=own,
            symmetric=True,
            false_negative_margin=0.1 if own == (groups == 1) else None,
        ),
    )
    for gather in ("whole", "ring")
    for own in (False, True)
    for groups in (1, 2)
}
LOSSES = (
    "weights by hardness and level",
    "listnet, others",
    "lambda, others",
    "wasserstein",
    "hinge",
    "softplus",
    "kl",
    "margin_mse",
    "cosent",
    "angle",
    "matryoshka of a sum",
)
WAYS |= {
    name: TrainingConfig(
        steps=4, global_batch=GLOBAL_BATCH, micro_batch=4, gradient_clipping=0.0, loss=CASES[name]
    )
    for name in LOSSES
}


def make_config(training: TrainingConfig) -> RunConfig:
    return RunConfig(
        name="gradients",
        model=ModelConfig(
            name_or_path="tiny-random/mistral", lora=LoraConfig(rank=4, dropout=0.0), max_length=96
        ),
        data=DataConfig(train=["unused"]),
        training=training,
        curriculum=CurriculumConfig(stages="all", homogeneous=False),
        seed=1,
    )


def make_model(config: RunConfig) -> tuple[EmbeddingModel, Tokenizer]:
    """Adapters start at zero, which would hide half of the gradient: they are moved away from it."""
    model, tokenizer = build_model(config.model, seed=3)
    random = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=random)
    return model, tokenizer


def make_plan(store: Store, config: RunConfig) -> TrainingPlan:
    return TrainingPlan(store.index(), config.curriculum, **config.plan_arguments())
