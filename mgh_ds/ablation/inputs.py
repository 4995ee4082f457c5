"""What the cells begin with, data and backbones, looked at before the first of them is trained."""

from collections.abc import Mapping, Sequence

from mgh_ds.ablation.grid import Cell
from mgh_ds.common.errors import MghError
from mgh_ds.model.fingerprint import Fingerprint, fingerprint
from mgh_ds.records.mixture import Mixture
from mgh_ds.training.adapters import base_fingerprint
from mgh_ds.training.data import make_plan, open_training_data
from mgh_ds.training.needs import check_recipe


def open_data(grid: Sequence[Cell]) -> dict[str, Mixture]:
    """Cell name → the stores that it trains on; JSONL files are converted into the output folder."""

    def of(cell: Cell) -> tuple[str, ...]:
        return cell.config.training.objective.model_dump_json(), *cell.config.data.paths

    found: dict[tuple[str, ...], Mixture] = {}
    for cell in grid:
        if of(cell) not in found:
            cache = cell.path.parent / "data"
            stores = [open_training_data(cell.config, path, cache) for path in cell.config.data.paths]
            found[of(cell)] = Mixture(stores)
    return {cell.name: found[of(cell)] for cell in grid}


def backbones_of(grid: Sequence[Cell]) -> dict[str, Fingerprint]:
    """Cell name → fingerprint of the model that it begins with."""

    def of(cell: Cell) -> tuple[str, ...]:
        return cell.config.model.name_or_path, *cell.config.model.adapters

    cells = {of(cell): cell for cell in grid}
    found = {names: base_fingerprint(cells[names].config.model) for names in sorted(cells)}
    return {cell.name: found[of(cell)] for cell in grid}


def check_recipes(cells: Sequence[Cell], data: Mapping[str, Mixture]) -> None:
    """Raises MghError, with the row's name, for a recipe that would be refused when its training starts: for
    a curriculum or a loss that its data do not serve, and for a guide that is not there."""
    recipes: dict[str, Cell] = {}
    for cell in cells:
        if cell.seed is not None and cell.source is None:
            recipes.setdefault(cell.row, cell)
    for row, cell in recipes.items():
        guide = cell.config.training.guide
        try:
            if guide is not None:
                fingerprint(guide.name_or_path)
            check_recipe(cell.config, make_plan(cell.config, data[cell.name]))
        except MghError as error:
            raise MghError(f"{row}: {error}") from None
