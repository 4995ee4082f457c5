"""`mgh-ds config`: the keys of recipes, and the JSON schemas by which editors complete and check them."""

import argparse
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from mgh_ds.common import files
from mgh_ds.common.recipe_files import EXTENDS, SHIPPED
from mgh_ds.common.recipe_help import help_text
from mgh_ds.common.settings import Settings
from mgh_ds.synthesis.config import SynthesisConfig
from mgh_ds.training.config import RunConfig

KINDS: dict[str, type[Settings]] = {"train": RunConfig, "synthesis": SynthesisConfig}
SCHEMAS = SHIPPED / "schema"


def add_keys_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `mgh-ds config keys`."""
    parser.add_argument("kind", choices=KINDS, nargs="?", default="train", help="of recipe (default: train)")
    parser.set_defaults(call=lambda kind: print(help_text(KINDS[kind])))


def add_schema_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `mgh-ds config schema`."""
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="default: beside the recipes that ship with mgh-ds"
    )
    parser.set_defaults(call=schema_command)


def schema_command(output: Path | None) -> None:
    """Writes the schema of each kind of recipe to a folder; without one, to that of the package."""
    folder = output or SCHEMAS
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind in KINDS.items():
        path = folder / f"{name}.json"
        files.write_json(path, recipe_schema(kind))
        print(path)


def recipe_schema(kind: type[Settings]) -> dict[str, Any]:
    """The JSON schema of a YAML file that holds a recipe of this kind, or a part of one.

    No key is required, since the recipe may extend one that has it; completeness is checked at loading.
    """
    schema = kind.model_json_schema(schema_generator=_Schema)
    extends = {
        "type": "string",
        "description": "The recipe that this one lays its keys over: a file or a name.",
    }
    schema["properties"] = {EXTENDS: extends} | schema["properties"]
    for table in (schema, *schema["$defs"].values()):
        table.pop("required", None)
    return {"$schema": GenerateJsonSchema.schema_dialect} | schema


class _Schema(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False  # it would repeat the key

    def tagged_union_schema(self, schema: Any) -> dict[str, Any]:
        made = super().tagged_union_schema(schema)
        made.pop("discriminator")  # without a name the table is of the default kind
        return {"anyOf": made.pop("oneOf"), **made}
