"""The cells of an ablation: recipes × poolings × seeds, each a training run of its own."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mgh_ds.common.config import load_config
from mgh_ds.common.errors import MghError
from mgh_ds.model.config import PoolingMethod
from mgh_ds.training.config import RunConfig

UNTRAINED = "untrained"
# What tells the cells apart, what bears on no score, and what would choose a cell's model by scores.
DECIDED = (
    "name",
    "folder",
    "seed",
    "model.pooling.method",
    "data.held_out",
    "evaluation.every",
    "evaluation.tasks",
    "evaluation.metric",
    "evaluation.patience",
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of the grid, or (`seed` None) the untrained model.

    Attributes:
        row: the recipe's name; the seeds of one row and pooling are averaged.
        config: the whole recipe of this run; its folder is `config.path`.
        arguments: what `mgh-ds train` is started with.
    """

    row: str
    pooling: PoolingMethod
    seed: int | None
    config: RunConfig
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def path(self) -> Path:
        return self.config.path


def make_grid(
    configs: Sequence[Path],
    poolings: Sequence[PoolingMethod],
    seeds: int,
    output: Path,
    settings: Sequence[str] = (),
) -> list[Cell]:
    """All cells in the order of work: the untrained model, then seed 0 of every recipe and pooling, then seed
    1: so an interrupted grid has whole rounds. `settings` are overrides for every recipe.

    Raises MghError for a wrong recipe, two of one name, no seed, and an override of what the grid decides.
    """
    if seeds < 1:
        raise MghError(f"--seeds is {seeds}; it must be at least 1")
    for word in settings:
        key = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and key in DECIDED:
            raise MghError(f"--{key} is decided by the grid: leave it out")
    recipes = [load_config(RunConfig, ["--config", str(path), *settings]) for path in configs]
    rows = [recipe.name for recipe in recipes]
    for row in rows:
        if rows.count(row) > 1 or row == UNTRAINED:
            raise MghError(f"two rows would be called {row!r}: give every recipe a name of its own")
    untrained = [_cell(UNTRAINED, pooling, None, recipes[0], output) for pooling in poolings]
    trained = [
        _cell(recipe.name, pooling, seed, recipe, output, ("--config", str(path), *settings))
        for seed in range(seeds)
        for pooling in poolings
        for path, recipe in zip(configs, recipes, strict=True)
    ]
    return [*untrained, *trained]


def _cell(
    row: str,
    pooling: PoolingMethod,
    seed: int | None,
    recipe: RunConfig,
    output: Path,
    given: Sequence[str] = (),
) -> Cell:
    name = f"{row}-{pooling}" if seed is None else f"{row}-{pooling}-{seed}"
    config = recipe.replace(
        name=name,
        folder=str(output),
        seed=seed or 0,
        model=recipe.model.replace(pooling=recipe.model.pooling.replace(method=pooling)),
        data=recipe.data.replace(held_out=None),
        evaluation=recipe.evaluation.replace(every=None, tasks=[], metric=None, patience=None),
    )
    decided = (name, str(output), str(config.seed), pooling, "null", "null", "[]", "null", "null")
    words = [word for key, value in zip(DECIDED, decided, strict=True) for word in (f"--{key}", value)]
    return Cell(row, pooling, seed, config, (*given, *words))
