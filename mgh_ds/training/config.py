"""Everything that a training recipe may say; the YAML files in `configs/` are read into these classes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from mgh_ds.common.config import Settings
from mgh_ds.curriculum.config import CurriculumConfig
from mgh_ds.curriculum.sources import DataSource
from mgh_ds.losses import AnyLossSettings, InfoNCESettings
from mgh_ds.losses.settings import GuideSettings, LossSettings
from mgh_ds.model.config import ModelConfig
from mgh_ds.training.loggers import LOGGERS
from mgh_ds.training.objectives import AnyObjectiveSettings, ContrastiveSettings, MntpSettings

if TYPE_CHECKING:
    LoggerName = str
else:  # mypy cannot read the names out of a table
    LoggerName = Literal[tuple(LOGGERS)]

# Of English prose. The plan weighs texts by characters; beyond `max_length` tokens a text weighs no more.
CHARS_PER_TOKEN = 4


class DataConfig(Settings):
    """Where the records are."""

    train: list[DataSource]
    """Stores (folders written by `mgh-ds data convert`) or graded JSONL files; trained on together.
    `sample:train`, `sample:held_out`, `mgh:train` and `mgh:held_out` name the bundled records. The objective
    mntp also takes plain text and rows with a `text`. Each is a path, or a table of a path and what is to be
    done with it: `{path: data/nli, weight: 2.0, max_epochs: 1.5}`."""
    held_out: str | None = None
    """The same kind of path; scored before and after training, and in between where `evaluation.every` says.
    null: no records are scored."""
    shards: str | None = None
    """Folder on a node-local disk for the shards, each rank's records in the order of its steps; environment
    variables such as $TMPDIR are filled in. null: `shards` in the run's folder."""

    @model_validator(mode="after")
    def _check_paths(self) -> Self:
        if not self.train or not all(source.path for source in self.train) or self.held_out == "":
            raise ValueError("every path must name a store or file; data.train needs at least one")
        return self

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        weighed = [source.weight is not None for source in self.train]
        if any(weighed) and not all(weighed):
            one, other = weighed.index(False), weighed.index(True)
            raise ValueError(
                f"train[{one}] ({self.train[one].path}) has no weight, but train[{other}] "
                f"({self.train[other].path}) has: give every source a weight, or none"
            )
        return self

    @property
    def paths(self) -> list[str]:
        """Where the sources lie, without what else is said of them."""
        return [source.path for source in self.train]


class TrainingConfig(Settings):
    """The optimisation."""

    steps: int = Field(gt=0)
    """Optimiser steps."""
    global_batch: int = Field(gt=0)
    """Records a step, whatever the number of ranks; their documents are each other's in-batch negatives."""
    micro_batch: int = Field(gt=0)
    """Records a forward pass, the knob for memory. It does not change the gradient but for the dropout masks,
    which are drawn for each micro-batch, and for who is in which negative group where there are several."""
    negative_groups: int = Field(default=1, gt=0)
    """The global batch is cut into so many groups; a query meets its own group's documents alone. 1 is the
    whole global batch; more save memory and communication."""
    gather: Literal["whole", "ring"] = "whole"
    """How a rank meets the candidates of the others: "whole" holds all of them at once, "ring" lets them come
    by rank after rank. The loss is the same."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak of AdamW's rate, reached after `warmup_steps` and then lowered linearly to 0."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps from 0 to the peak."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's."""
    gradient_clipping: float = Field(default=1.0, ge=0)
    """Greatest norm of the gradient; 0 leaves it as it is."""
    checkpoint_every: int = Field(default=100, gt=0)
    """Steps between checkpoints; the last step always makes one."""
    keep_checkpoints: int = Field(default=2, gt=0)
    """How many of the newest checkpoints stay."""
    bad_steps_limit: int = Field(default=3, gt=0)
    """A step whose loss or gradient is not finite changes nothing and is skipped; so many in a row end the
    run."""
    silence_limit_s: float = Field(default=120.0, gt=0)
    """Seconds without a sign of life from a rank after which the job ends with its name."""
    deepspeed: str = "zero2"
    """`zero2`, which ships with mgh-ds, or a JSON file with the engine's settings; what the recipe decides
    may not stand in it."""
    objective: AnyObjectiveSettings = ContrastiveSettings()
    """What is trained for, by its `name`: `contrastive`, or before that `mntp`, by which a decoder learns to
    use attention in both directions."""
    loss: AnyLossSettings = InfoNCESettings()
    """The loss of the contrastive objective, by its `name`, and what it may be told."""
    guide: GuideSettings | None = None
    """A frozen model by which every InfoNCE of the run, be it part of a sum, of matryoshka or a stage's own,
    masks probable positives. null: none."""


class WandbConfig(Settings):
    """Where Weights & Biases keeps the run; the rest is said by its own environment variables."""

    project: str | None = None
    """null: WANDB_PROJECT, or W&B's default."""
    entity: str | None = None
    """User or team; null: WANDB_ENTITY, or the key's owner."""


class LoggingConfig(Settings):
    """Who is told of the run's figures while it trains, beside metrics.jsonl."""

    loggers: list[LoggerName] = Field(default=[])
    """tensorboard, wandb or both; each needs the extra of its name, and what fails later costs the logger,
    not the run."""
    wandb: WandbConfig = WandbConfig()
    """Where Weights & Biases keeps the run."""

    @field_validator("loggers")
    @classmethod
    def _check_loggers(cls, loggers: list[str]) -> list[str]:
        if len(set(loggers)) < len(loggers):
            raise ValueError(f"must name a logger once, found {', '.join(loggers)}")
        return loggers


class EvaluationConfig(Settings):
    """Scoring: of what, how often, and what follows from it."""

    every: int | None = Field(default=None, gt=0)
    """Steps between evaluations, beside those before and after training, which take place where there is
    something to score. null: those two alone."""
    tasks: list[str] = Field(default=[])
    """MTEB tasks, such as STS17, that are scored beside the held-out records, or without them."""
    data_dir: str | None = None
    """Folder with one folder a task, as for `mgh-ds eval --data-dir`. null: the tasks' data come from the
    Hugging Face hub, or its cache on this machine."""
    languages: list[str] = Field(default=["eng"], min_length=1)
    """ISO 639-3 codes: tasks from the hub keep the subsets wholly in these languages."""
    metric: str | None = None
    """What makes one evaluation better than another: a task, such as STS17 or HeldOutRetrieval, by its main
    score; `mean`, over all tasks; or `levels.4`, the held-out accuracy at a level. The best checkpoint is
    kept and exported. null: the newest is exported."""
    patience: int | None = Field(default=None, gt=0)
    """Evaluations in a row without a better metric after which training ends; needs `every` and `metric`.
    null: all steps are trained."""
    batch_size: int = Field(default=64, gt=0)
    """Texts a forward pass."""
    interpolate: float = Field(default=1.0, ge=0, le=1)
    """Which weights are scored and exported: 1 is those of training, 0 those that it began with, 0.5 half-way
    between (WiSE-FT), which keeps more of what the backbone could do. Training itself is the same."""
    heat_map_texts: int = Field(default=6, gt=0)
    """For how many held-out texts the token weights are kept for the report's heat map."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        missing = [key for key in ("every", "metric") if getattr(self, key) is None]
        if self.patience is not None and missing:
            raise ValueError(
                f"patience needs {' and '.join(missing)}: it counts evaluations without a better metric"
            )
        if self.data_dir is not None and self.languages != ["eng"]:
            raise ValueError("languages are for tasks from the hub: local folders hold the English subsets")
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks names one twice")
        return self


class RunConfig(Settings):
    """One training run."""

    name: str
    """The run's folder is `<folder>/<name>`; started again under the same name, a run goes on where it
    stopped."""
    model: ModelConfig
    """Backbone, pooling, LoRA and precision."""
    data: DataConfig
    """Training and held-out records."""
    training: TrainingConfig
    """The optimisation."""
    curriculum: CurriculumConfig = CurriculumConfig()
    """Order of the levels, and how batches are put together."""
    logging: LoggingConfig = LoggingConfig()
    """Who is told of the figures while it trains."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Scoring: of what, how often, and what follows from it."""
    folder: str = "runs"
    """Parent of all runs."""
    seed: int = Field(default=0, ge=-(2**63), lt=2**63)
    """Fixes adapter initialisation, order of the data and dropout."""
    accept_changes: list[str] = Field(default=[])
    """What may differ between a checkpoint and the run that goes on from it, as the refusal names it; such as
    `config.training.learning_rate`."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name or Path(name).name != name:
            raise ValueError(f"must be the name of a folder, found {name!r}")
        return name

    @model_validator(mode="after")
    def _check_scores(self) -> Self:
        asked = [key for key in ("every", "metric") if getattr(self.evaluation, key) is not None]
        if asked and not self.is_scored:
            raise ValueError(
                f"evaluation.{asked[0]} needs something to score: name records in data.held_out, or MTEB "
                "tasks in evaluation.tasks"
            )
        return self

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        shares = [self.curriculum.ungraded_share, *(stage.ungraded_share for stage in self.curriculum.stages)]
        weighed = [
            f"data.train[{number}].{key} ({source.path})"
            for number, source in enumerate(self.data.train)
            for key in ("weight", "max_epochs")
            if key in source.said
        ]
        if weighed and any(share is not None for share in shares):
            raise ValueError(
                f"{weighed[0]} and curriculum.ungraded_share both say which records a batch is made of: put "
                "ungraded records into a source of their own, with a weight, and set ungraded_share to null"
            )
        return self

    @model_validator(mode="after")
    def _check_objective(self) -> Self:
        if not isinstance(self.training.objective, MntpSettings):
            return self
        if not self.model.bidirectional:
            raise ValueError(
                "training.objective mntp needs attention in both directions: model.bidirectional must be true"
            )
        for number, source in enumerate(self.data.train):
            for key in ("levels", "ungraded_level"):
                if key in source.said:
                    raise ValueError(
                        f"training.objective mntp learns from texts, which have no levels: leave out "
                        f"data.train[{number}].{key} ({source.path})"
                    )
        if self.training.negative_groups > 1:
            raise ValueError("training.objective mntp has no negatives: training.negative_groups must be 1")
        curriculum = self.curriculum
        negatives = [
            curriculum.negatives if stage.negatives is None else stage.negatives
            for stage in curriculum.stages
        ]
        if negatives != [0] or curriculum.ungraded_share is not None or curriculum.missing_level == "skip":
            raise ValueError(
                "training.objective mntp learns from texts, which have neither levels nor negatives: "
                "curriculum needs `stages: random` and `negatives: 0`, and no other choice among its records"
            )
        return self

    @model_validator(mode="after")
    def _check_guide(self) -> Self:
        if self.training.guide is None:
            return self
        if isinstance(self.training.objective, MntpSettings):
            raise ValueError("training.guide masks negatives, and training.objective mntp has none")
        parts = [part for loss in self.stage_losses() for part in loss.parts()]
        if not any(part.guided for part in parts):
            names = ", ".join(dict.fromkeys(part.name for part in parts))
            raise ValueError(
                f"training.guide masks what a query of info_nce sees, but the loss is {names}: leave it out, "
                "or take info_nce, alone or in a sum"
            )
        return self

    def stage_losses(self) -> list[LossSettings]:
        """The loss of each stage."""
        common = self.training.loss
        return [_laid_over(common, stage.loss) for stage in self.curriculum.stages]

    @property
    def is_scored(self) -> bool:
        """Whether there is anything to score."""
        return bool(self.data.held_out or self.evaluation.tasks)

    def plan_arguments(self) -> dict[str, Any]:
        """What `TrainingPlan` must know of this run besides the records and the curriculum."""
        training = self.training
        return {
            "steps": training.steps,
            "global_batch": training.global_batch,
            "micro_batch": training.micro_batch,
            "negative_groups": training.negative_groups,
            "seed": self.seed,
            "max_chars": CHARS_PER_TOKEN * self.model.max_length,
        }

    @property
    def path(self) -> Path:
        return Path(self.folder) / self.name


def _laid_over(common: LossSettings, own: LossSettings | None) -> LossSettings:
    """A stage's own loss, with what it leaves unsaid as in the common one if both are of one name."""
    if own is None:
        return common
    if own.name != common.name:
        return own
    return common.replace(**{key: getattr(own, key) for key in own.model_fields_set})
