"""What a run may be trained for, and what a recipe may say about it: `training.objective`.

Imports nothing heavy, so that what is wrong with a recipe is said before torch is loaded.
"""

import importlib
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from mgh_ds.common.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mgh_ds.curriculum.loader import MicroBatch
    from mgh_ds.curriculum.stages import Stage
    from mgh_ds.model.tokens import Tokenizer
    from mgh_ds.training.config import RunConfig
    from mgh_ds.training.step import Notes, StepResult


class ContrastiveSettings(Settings):
    """Embeddings of queries and documents, by `training.loss`."""

    name: Literal["contrastive"] = "contrastive"
    """Queries are drawn to their positives and away from all other documents that they see."""


class MntpSettings(Settings):
    """Masked next-token prediction (LLM2Vec, arXiv 2404.05961, section 2.2): how a decoder learns to use
    attention in both directions. Every text of the data is a record of its own."""

    name: Literal["mntp"] = "mntp"
    """Masked tokens are predicted, each from the state before it; `training.loss` is not read."""
    mask_share: float = Field(default=0.2, gt=0, le=1)
    """Of a text's tokens, but for the first and special ones, that are to be predicted; one at least."""
    mask_token: str = Field(default="_", min_length=1)
    """What stands in a masked token's place; the tokenizer must know it as one token."""
    random_share: float = Field(default=0.1, ge=0, le=1)
    """Of the masked tokens, those that any token of the vocabulary takes the place of."""
    kept_share: float = Field(default=0.1, ge=0, le=1)
    """Of the masked tokens, those that stay as they are. Both 0: `mask_token` stands for all of them."""
    texts: list[Literal["query", "positive", "negatives"]] = Field(
        default=["query", "positive", "negatives"], min_length=1
    )
    """Which texts are learnt from where the data are records; of other data, all."""
    text_chars: int | None = Field(default=None, gt=0)
    """Lines of plain text are put together to texts of at most so many characters, and longer texts cut;
    null: every line is a text."""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.random_share + self.kept_share > 1:
            raise ValueError("random_share and kept_share are parts of the masked tokens: at most 1 together")
        return self


AnyObjectiveSettings = Annotated[ContrastiveSettings | MntpSettings, Field(discriminator="name")]
OBJECTIVES: dict[type[Settings], str] = {
    ContrastiveSettings: "mgh_ds.training.contrastive:Contrastive",
    MntpSettings: "mgh_ds.training.mntp:Mntp",
}


class Objective(Protocol):
    """What the trainer asks of an objective. It is made, on all ranks together, before a model is loaded, and
    refuses then what does not fit it."""

    @property
    def identity(self) -> "Mapping[str, Any]":
        """What a checkpoint and the run that goes on from it must have in common beside recipe, data and
        backbone."""

    def make_batch(self, texts: "MicroBatch", tokenizer: "Tokenizer", step: int) -> Any:
        """What `train_step` takes of a micro-batch, on the CPU; called in the thread that reads ahead. It has
        `ids`, `size` and `to(device)`, as `training.batch.Batch` has."""

    def train_step(
        self, engine: Any, batches: "Sequence[Any]", records: int, stage: "Stage", notes: "Notes", /
    ) -> "StepResult":
        """One step of a stage, as `training.step.train_step` does it."""


def make_objective(config: "RunConfig") -> Objective:
    """The objective that a recipe names. Raises MghError for a backbone that it is not for."""
    module, name = OBJECTIVES[type(config.training.objective)].split(":")
    objective: Objective = getattr(importlib.import_module(module), name)(config)
    return objective
