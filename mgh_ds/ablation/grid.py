"""The cells of an ablation: recipes × poolings × seeds, each a training run of its own."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from mgh_ds.common.config import load_config
from mgh_ds.common.errors import MghError
from mgh_ds.common.problems import nearest
from mgh_ds.model.config import ColumnTransform, PoolingMethod, SinkTreatment
from mgh_ds.training.config import RunConfig

UNTRAINED = "untrained"
# What tells the cells apart beside their poolings, what bears on no score, and what would choose a cell's
# model by scores.
DECIDED = (
    "name",
    "folder",
    "seed",
    "data.held_out",
    "evaluation.every",
    "evaluation.tasks",
    "evaluation.metric",
    "evaluation.patience",
)


# What may follow a pooling's method, by the key that it decides.
TREATMENTS = {"column_transform": get_args(ColumnTransform), "sink": get_args(SinkTreatment)}


class PoolingChoice(NamedTuple):
    """A column of the grid, written as a method and what becomes of its weights: `mean`, `ata`, `ata+log1p`,
    `ata+softmax+first`. `changes` are the keys of `model.pooling` that it decides; all others stay as the
    recipe has them."""

    label: str
    changes: dict[str, str]

    @classmethod
    def parse(cls, label: str) -> "PoolingChoice":
        """Raises MghError for a word that is no pooling or treatment, and for two of one kind."""
        method, *treatments = label.split("+")
        methods = get_args(PoolingMethod)
        if method not in methods:
            raise MghError(f"no pooling is called {method!r}{nearest(method, methods)}: {', '.join(methods)}")
        changes = {"method": method}
        for word in treatments:
            key = next((key for key, words in TREATMENTS.items() if word in words), None)
            if method != "ata" or key is None or key in changes:
                known = "; ".join(f"{key} {', '.join(words)}" for key, words in TREATMENTS.items())
                raise MghError(f"--poolings {label}: after ata+ may follow one of each: {known}")
            changes[key] = word
        return cls(label, changes)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of the grid, or (`seed` None) an untrained model.

    Attributes:
        row: the recipe's name; the seeds of one row and pooling are averaged.
        pooling: the label of its `PoolingChoice`.
        config: the whole recipe of this run; its folder is `config.path`, and its `evaluation.interpolate`
            the share of what was learnt at which it is scored.
        arguments: what `mgh-ds train` is started with.
        source: of a cell that is not trained but lies between the untrained model and another cell's, that
            cell's folder.
    """

    row: str
    pooling: str
    seed: int | None
    config: RunConfig
    arguments: tuple[str, ...]
    source: Path | None = None

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def path(self) -> Path:
        return self.config.path


def make_grid(
    configs: Sequence[Path],
    poolings: Sequence[str],
    seeds: int,
    output: Path,
    settings: Sequence[str] = (),
    interpolate: Sequence[float] = (),
) -> list[Cell]:
    """All cells in the order of work: the untrained models, then seed 0 of every recipe and pooling, then
    seed 1: so an interrupted grid has whole rounds. `poolings` are labels of `PoolingChoice`, `settings`
    overrides for every recipe. Each trained cell is followed by those that lie between it and the untrained
    model, one for each number of `interpolate` but the recipe's own.

    Raises MghError for a wrong recipe, two of one name, no seed, a wrong pooling, an override of what the
    grid decides, and a number that is not between 0 and 1.
    """
    if seeds < 1:
        raise MghError(f"--seeds is {seeds}; it must be at least 1")
    for share in interpolate:
        if not 0 < share < 1:
            raise MghError(f"--interpolate is {share:g}; it must lie between 0, untrained, and 1, trained")
    choices = [PoolingChoice.parse(label) for label in poolings]
    decided = {*DECIDED, *(f"model.pooling.{key}" for choice in choices for key in choice.changes)}
    for word in settings:
        key = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and key in decided:
            raise MghError(f"--{key} is decided by the grid: leave it out")
    recipes = [load_config(RunConfig, ["--config", str(path), *settings]) for path in configs]
    rows = [recipe.name for recipe in recipes]
    for row in rows:
        if rows.count(row) > 1 or row == UNTRAINED:
            raise MghError(f"two rows would be called {row!r}: give every recipe a name of its own")
    untrained = [
        _cell(row, choice, None, recipe, output)
        for choice in choices
        for row, recipe in _untrained(recipes).items()
    ]
    trained = [
        cell
        for seed in range(seeds)
        for choice in choices
        for path, recipe in zip(configs, recipes, strict=True)
        for cell in _with_those_between(
            _cell(recipe.name, choice, seed, recipe, output, ("--config", str(path), *settings)), interpolate
        )
    ]
    return [*untrained, *trained]


def _with_those_between(cell: Cell, interpolate: Sequence[float]) -> list[Cell]:
    between = []
    for share in dict.fromkeys(interpolate):
        if share == cell.config.evaluation.interpolate:
            continue  # the cell itself
        row = f"{cell.row}@{share:g}"
        evaluation = cell.config.evaluation.replace(interpolate=share)
        config = cell.config.replace(name=cell.name.replace(cell.row, row, 1), evaluation=evaluation)
        between.append(Cell(row, cell.pooling, cell.seed, config, (), cell.path))
    return [cell, *between]


def _untrained(recipes: Sequence[RunConfig]) -> dict[str, RunConfig]:
    """By the name of its row, a recipe for each of the models that the recipes begin with: where they are
    one, `untrained`; else each is called after the first recipe that has it."""
    models: dict[str, RunConfig] = {}
    for recipe in recipes:
        described = recipe.model.model_dump(mode="json", exclude={"pooling", "lora"})
        models.setdefault(json.dumps(described), recipe)
    if len(models) == 1:
        return {UNTRAINED: recipes[0]}
    return {f"{UNTRAINED}-{recipe.name}": recipe for recipe in models.values()}


def _cell(
    row: str,
    choice: PoolingChoice,
    seed: int | None,
    recipe: RunConfig,
    output: Path,
    given: Sequence[str] = (),
) -> Cell:
    name = f"{row}-{choice.label}" if seed is None else f"{row}-{choice.label}-{seed}"
    changes: dict[str, Any] = choice.changes
    config = recipe.replace(
        name=name,
        folder=str(output),
        seed=seed or 0,
        model=recipe.model.replace(pooling=recipe.model.pooling.replace(**changes)),
        data=recipe.data.replace(held_out=None),
        evaluation=recipe.evaluation.replace(every=None, tasks=[], metric=None, patience=None),
    )
    values = (name, str(output), str(config.seed), "null", "null", "[]", "null", "null")
    decided = dict(zip(DECIDED, values, strict=True)) | {
        f"model.pooling.{key}": value for key, value in choice.changes.items()
    }
    words = [word for key, value in decided.items() for word in (f"--{key}", value)]
    return Cell(row, choice.label, seed, config, (*given, *words))
