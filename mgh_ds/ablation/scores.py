"""What is known of one cell: its recipe, its data, and the scores so far, in `<run>/ablation-scores.json`.

The file appears when training is over, and gains one task at a time.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from mgh_ds.ablation.grid import Cell
from mgh_ds.common import files
from mgh_ds.common.differences import NO_KEY, Difference, differences
from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.results import LevelScore

FILE = "ablation-scores.json"
# Of held-out records, among the tasks' names: how many of the hardest negatives lie below their positive, and
# how far the documents of a query lie in the order of their levels.
HARD_NEGATIVES, LEVEL_ORDER = "HardNegatives", "LevelOrder"
OF_HELD_OUT = {HARD_NEGATIVES: "accuracy", LEVEL_ORDER: "Kendall's τ"}


class Score(TypedDict):
    """A task's main score; `metric` is mteb's name for it and `revision` says which data were scored. Hard
    negatives have accuracy and margin by level beside it."""

    metric: str
    score: float
    revision: str
    levels: NotRequired[dict[str, LevelScore]]


@dataclass(frozen=True)
class Scores:
    """One cell's scores. `recipe` is the whole configuration, `data` the hash of the training stores,
    `backbone` the fingerprint of the model that the recipe names; cells of before there was one have none."""

    row: str
    pooling: str
    seed: int | None
    recipe: dict[str, Any]
    data: str
    tasks: dict[str, Score] = field(default_factory=dict)
    backbone: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, cell: Cell, data: str, backbone: dict[str, str]) -> "Scores":
        """A cell's scores before any task."""
        return cls(cell.row, cell.pooling, cell.seed, cell.config.model_dump(), data, backbone=backbone)

    @classmethod
    def read(cls, run: Path) -> "Scores | None":
        """The scores in a run's folder; None where training is not over.

        Raises MghError for a broken file.
        """
        if not (run / FILE).exists():
            return None
        content = files.read_json(run / FILE)
        try:
            return cls(**content)
        except TypeError as error:
            raise MghError(f"{run / FILE} holds no scores of an ablation: {error}") from None

    def write(self, run: Path) -> None:
        files.write_json(run / FILE, dataclasses.asdict(self))

    def check(self, cell: Cell, data: str, backbone: dict[str, str], revisions: dict[str, str]) -> None:
        """Raises MghError if they are not of this cell's recipe, data and backbone, or of other evaluation
        data."""
        if not self.backbone:
            print(f"{cell.path} does not say which files its backbone had: it is taken for the present one")
        now = Scores.of(cell, data, backbone)
        differing = list(map(str, differing_keys(self.compared(), now.compared())))
        differing += [
            f"the data of {task}"
            for task, revision in revisions.items()
            if task in self.tasks and self.tasks[task]["revision"] != revision
        ]
        if differing:
            raise MghError(
                f"{cell.path} was made otherwise; differing: {'; '.join(differing)}. "
                "Choose another --output, or remove that folder to train it again"
            )

    def compared(self) -> dict[str, Any]:
        """Recipe, data and backbone, without what bears on no score; of the untrained model, its description
        and backbone alone."""
        backbone = {"backbone": self.backbone} if self.backbone else {}
        if self.seed is None:
            model = {name: value for name, value in self.recipe["model"].items() if name != "lora"}
            return {"model": model, **backbone}
        free = ("folder", "logging", "evaluation", "accept_changes")
        recipe = {name: value for name, value in self.recipe.items() if name not in free}
        training = recipe["training"]
        if training.get("guide") is None:  # as in cells of before there were any
            recipe["training"] = {key: value for key, value in training.items() if key != "guide"}
        # Cells of before recipes could say it: trained ones were scored as trained, the others do not tell.
        share = self.recipe["evaluation"].get("interpolate", None if "@" in self.row else 1.0)
        known = {} if share is None else {"interpolate": share}
        return recipe | known | {"data": {"train": self.data} | _mixture(recipe["data"]["train"])} | backbone


def _mixture(train: list[str | dict[str, Any]]) -> dict[str, Any]:
    """What a recipe says of its sources beside their paths; nothing where they are paths alone."""
    said = [
        {} if isinstance(source, str) else {key: value for key, value in source.items() if key != "path"}
        for source in train
    ]
    return {"mixture": said} if any(said) else {}


def differing_keys(first: dict[str, Any], second: dict[str, Any]) -> list[Difference]:
    """Where two cells differ in what is compared; which backbone they had, and at which share of what was
    learnt they were scored, counts where both know."""
    return [
        found
        for found in differences(first, second)
        if found.key not in ("backbone", "interpolate") or NO_KEY not in (found.first, found.second)
    ]
