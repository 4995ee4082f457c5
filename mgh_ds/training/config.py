"""Everything that a training recipe may say; the YAML files in `configs/` are read into these classes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum.config import CurriculumConfig
from mgh_ds.model.config import ModelConfig

# Of English prose. The plan weighs texts by characters; beyond `max_length` tokens a text weighs no more.
CHARS_PER_TOKEN = 4


@dataclass(frozen=True)
class DataConfig:
    """Where the records are.

    Attributes:
        train: stores (folders written by `mgh-ds data convert`) or graded JSONL files; trained on together.
            `sample:train` and `sample:held_out` name the bundled records.
        held_out: the same kind of path; scored before and after training. None: nothing is scored.
        shards: folder on a node-local disk for the shards, each rank's records in the order of its steps;
            environment variables such as $TMPDIR are filled in. None: `shards` in the run's folder.
    """

    train: list[str]
    held_out: str | None = None
    shards: str | None = None


@dataclass(frozen=True)
class LossConfig:
    """InfoNCE over the pool of the whole global batch (paper, section 3.2).

    Attributes:
        temperature: divides the cosines; 0.02 is a cosine scale of 50.
        own_negatives_only: a query sees its own record's graded negatives and every positive, but not the
            graded negatives of other records.
        symmetric: records of symmetric tasks are also trained from the positive back to the query.
        false_negative_margin: candidates whose cosine exceeds the positive's by more than this are masked as
            probable positives; None masks identical texts only.
        gather: how a rank meets the candidates of the others: "whole" holds all of them at once, "ring" lets
            them come by rank after rank. The loss is the same.
    """

    temperature: float = 0.02
    own_negatives_only: bool = False
    symmetric: bool = False
    false_negative_margin: float | None = None
    gather: Literal["whole", "ring"] = "whole"


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation.

    Attributes:
        steps: optimiser steps.
        global_batch: records a step and size of the pool of negatives, whatever the number of ranks.
        micro_batch: records a forward pass, the knob for memory. It does not change the gradient but for the
            dropout masks, which are drawn for each micro-batch, and for who shares a pool where there are
            several.
        pools: the global batch is cut into so many pools of negatives; a query meets its own pool's documents
            alone. 1 makes the whole global batch the pool; more save memory and communication.
        learning_rate: peak of AdamW's rate, reached after `warmup_steps` and then lowered linearly to 0.
        warmup_steps: steps from 0 to the peak.
        weight_decay: AdamW's.
        gradient_clipping: greatest norm of the gradient; 0 leaves it as it is.
        checkpoint_every: steps between checkpoints; the last step always makes one.
        keep_checkpoints: how many of the newest stay.
        bad_steps_limit: a step whose loss or gradient is not finite changes nothing and is skipped; so many
            in a row end the run.
        silence_limit_s: seconds without a sign of life from a rank after which the job ends with its name.
        deepspeed: JSON file with the engine's settings, or the name of one that ships in the package; what
            this class decides may not stand in it.
        loss: the loss.
    """

    steps: int
    global_batch: int
    micro_batch: int
    pools: int = 1
    learning_rate: float = 2e-4
    warmup_steps: int = 0
    weight_decay: float = 0.0
    gradient_clipping: float = 1.0
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    bad_steps_limit: int = 3
    silence_limit_s: float = 120.0
    deepspeed: str = "zero2"
    loss: LossConfig = field(default_factory=LossConfig)


@dataclass(frozen=True)
class EvaluationConfig:
    """Scoring of the held-out records.

    Attributes:
        batch_size: texts a forward pass.
        anchor_texts: for how many held-out texts the token weights are kept for the report's heat map.
    """

    batch_size: int = 64
    anchor_texts: int = 6


@dataclass(frozen=True)
class RunConfig:
    """One training run.

    Attributes:
        name: the run's folder is `<folder>/<name>`; started again under the same name, a run goes on where it
            stopped.
        model: backbone, pooling, LoRA and precision.
        data: training and held-out records.
        training: the optimisation.
        curriculum: order of the levels, and how batches are put together.
        evaluation: scoring of the held-out records.
        folder: parent of all runs.
        seed: fixes adapter initialisation, order of the data and dropout.
        accept_changes: what may differ between a checkpoint and the run that goes on from it, as the refusal
            names it; such as `config.training.learning_rate`.
    """

    name: str
    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    folder: str = "runs"
    seed: int = 0
    accept_changes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        training, evaluation = self.training, self.evaluation
        if not self.name or Path(self.name).name != self.name:
            raise MghError(f"name must be the name of a folder, found {self.name!r}")
        if not self.data.train or not all(self.data.train) or self.data.held_out == "":
            raise MghError("data: every path must name a store or file; data.train needs at least one")
        positive = {
            "training.learning_rate": training.learning_rate,
            "training.loss.temperature": training.loss.temperature,
            "training.checkpoint_every": training.checkpoint_every,
            "training.keep_checkpoints": training.keep_checkpoints,
            "training.bad_steps_limit": training.bad_steps_limit,
            "training.silence_limit_s": training.silence_limit_s,
            "evaluation.batch_size": evaluation.batch_size,
            "evaluation.anchor_texts": evaluation.anchor_texts,
        }
        not_negative = {
            "training.warmup_steps": training.warmup_steps,
            "training.weight_decay": training.weight_decay,
            "training.gradient_clipping": training.gradient_clipping,
        }
        for key, value in positive.items():
            if not value > 0:
                raise MghError(f"{key} must be above 0, found {value}")
        for key, value in not_negative.items():
            if not value >= 0:
                raise MghError(f"{key} must not be negative, found {value}")

    def plan_arguments(self) -> dict[str, Any]:
        """What `TrainingPlan` must know of this run besides the records and the curriculum."""
        training = self.training
        return {
            "steps": training.steps,
            "global_batch": training.global_batch,
            "micro_batch": training.micro_batch,
            "pools": training.pools,
            "seed": self.seed,
            "max_chars": CHARS_PER_TOKEN * self.model.max_length,
        }

    @property
    def path(self) -> Path:
        return Path(self.folder) / self.name
