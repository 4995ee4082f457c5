"""The JSON schemas of the recipes are those of the code, and tell good recipes from bad ones."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mgh_ds import recipes
from mgh_ds.cli import main
from mgh_ds.common import files
from mgh_ds.common.recipe_files import SHIPPED, shipped_recipes


def kind_of(name: str) -> str:
    return "synthesis" if name.startswith("synth-") else "train"


def validator(schema: dict[str, Any]) -> Any:
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def faults(kind: str, recipe: Any) -> list[str]:
    schema = files.read_json(recipes.SCHEMAS / f"{kind}.json")
    return [error.message for error in validator(schema).iter_errors(recipe)]


def test_the_schemas_that_ship_are_those_of_the_code(tmp_path: Path) -> None:
    main(["config", "schema", "--output", str(tmp_path / "new")])
    for name in recipes.KINDS:
        written, shipped = tmp_path / "new" / f"{name}.json", recipes.SCHEMAS / f"{name}.json"
        assert written.read_text() == shipped.read_text(), (
            "run `mgh-ds config schema` and commit what it writes"
        )


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_names_its_schema_and_keeps_it(name: str) -> None:
    path = shipped_recipes()[name]
    text = path.read_text()
    header = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / header).resolve() == (SHIPPED / "schema" / f"{kind_of(name)}.json").resolve()
    assert faults(kind_of(name), yaml.safe_load(text)) == []


def test_the_figures_beside_a_default_are_those_of_the_table() -> None:
    poolings = files.read_json(Path("benchmarks/results/ablation-decoder.json"))["poolings"]
    figures = []
    for label in ("ata+softmax", "ata+log1p", "mean"):
        (row,) = [row for row in poolings[label]["rows"] if row["row"] == "decoder-mntp"]
        figures.append(f"{row['scores']['STS17']['mean']:.1f}")
    said = "STS17 after mntp and 30 steps: {}, log1p {}, mean {};".format(*figures)
    lines = [line for path in shipped_recipes().values() for line in path.read_text().splitlines()]
    chosen = [line for line in lines if "column_transform: softmax" in line]
    assert len(chosen) == 4
    assert all(said in line for line in chosen)


@pytest.mark.parametrize(
    ("kind", "recipe", "fault"),
    [
        ("train", {"trainig": {"steps": 3}}, "'trainig' was unexpected"),
        ("train", {"training": {"step": 3}}, "'step' was unexpected"),
        ("train", {"training": {"steps": 0}}, "0 is less than or equal to the minimum of 0"),
        ("train", {"training": {"steps": "many"}}, "'many' is not of type 'integer'"),
        ("train", {"curriculum": {"stages": "al"}}, "'al' is not"),
        ("train", {"extends": 3}, "3 is not of type 'string'"),
        (
            "train",
            {"data": {"train": ["a", {"path": "b", "weight": 0}]}},
            "is not valid under any",
        ),
        ("train", {"data": {"train": ["a", {"path": "b", "weight": 2, "levels": [1]}]}}, None),
        ("synthesis", {"tasks": {"subtypes": {"stz": 1}}}, "'stz'"),
        ("synthesis", {"shards": 100_001}, "100001 is greater than the maximum of 100000"),
        ("train", {"extends": "demo", "training": {"loss": {}}, "model": {"lora": None}}, None),
    ],
)
def test_what_loading_would_refuse_is_marked(kind: str, recipe: dict[str, Any], fault: str | None) -> None:
    found = faults(kind, recipe)
    assert (found == []) if fault is None else any(fault in each for each in found), found


def test_a_table_of_several_kinds_needs_no_name() -> None:
    from tests.common.test_config import Recipe

    check = validator(recipes.recipe_schema(Recipe)).is_valid
    assert check({"training": {"loss": {"temperature": 1}}})
    assert check({"training": {"loss": {"name": "level_margin", "margin": 1}}})
    assert not check({"training": {"loss": {"name": "level_margin", "temperature": 1}}})
    assert not check({"training": {"loss": {"name": "other"}}})
