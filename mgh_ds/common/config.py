"""From a YAML recipe and `--section.key value` overrides to typed, checked configuration."""

import itertools
import sys
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from mgh_ds.common.errors import MghError
from mgh_ds.common.keys import chosen, is_free_table, kind_of, tables_in
from mgh_ds.common.problems import Keys, explain
from mgh_ds.common.recipe_files import Layer, parse_yaml, read_layers, to_yaml
from mgh_ds.common.recipe_help import help_text
from mgh_ds.common.settings import Settings

__all__ = ["Settings", "dump_config", "load_config", "read_recipe"]

Config = TypeVar("Config", bound=Settings)
Kind = type[BaseModel]

COMMAND_LINE = "command line"


def load_config(kind: type[Config], arguments: Sequence[str]) -> Config:
    """Builds `kind` from `--config RECIPE` and overrides such as `--training.steps 100`, of which later ones
    win; `--help` prints all keys and ends the program.

    A recipe is a file, or the name of one that ships with mgh-ds. It may begin with `extends: other.yaml` (or
    a name) and hold only what differs from that one: tables are merged key by key, anything else is replaced.
    So is a table that names another kind than the one below it.

    Raises MghError for a missing or malformed file, a key that does not exist (with the nearest one that
    does), a missing key and a wrong value; it names the key and where it was set.
    """
    layers = _layers(kind, arguments)
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _laid_over(merged, layer.content, kind)
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        problem = explain(kind, error, merged)
        raise MghError(f"{_origin(layers, problem.keys)}: {problem.text}") from None


def dump_config(config: Settings) -> str:
    """The configuration as YAML text, every key written out; `load_config` reads it back."""
    return to_yaml(config.model_dump())


def read_recipe(path: Path, kind: Kind | None = None) -> dict[str, Any]:
    """The keys of a YAML file, laid over those of the recipe that its `extends` names, and so on.

    Tables are merged key by key, anything else is replaced; so is, in a recipe for `kind`, a table that names
    another kind than the one below it. Raises MghError for a file that is missing or malformed, or extends
    itself.
    """
    merged: dict[str, Any] = {}
    for layer in reversed(read_layers(str(path))):
        merged = _laid_over(merged, layer.content, kind)
    return merged


def _layers(kind: Kind, arguments: Sequence[str]) -> list[Layer]:
    """What the arguments hold, recipe by recipe; the overrides that follow each other are one layer."""
    layers: list[Layer] = []
    for name, value in _options(kind, arguments):
        if name == "config":
            layers += reversed(read_layers(value))
            continue
        if not layers or layers[-1].where != COMMAND_LINE:
            layers.append(Layer(COMMAND_LINE, {}))
        keys = tuple(name.split("."))
        given = _parsed(kind, keys, value)
        if isinstance(given, dict) and is_free_table(_annotation(kind, keys)):
            # Given whole: what lies below does not show through.
            layers.insert(-1, Layer(COMMAND_LINE, _nested(keys, None)))
            layers[-1] = Layer(COMMAND_LINE, _laid_over(layers[-1].content, _nested(keys, None)))
        layers[-1] = Layer(COMMAND_LINE, _laid_over(layers[-1].content, _nested(keys, given)))
    return layers


def _options(kind: Kind, arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and value of every option, be it `--name value` or `--name=value`."""
    words = iter(arguments)
    for word in words:
        if word in ("-h", "--help"):
            print(help_text(kind))
            sys.exit(0)
        if not word.startswith("--"):
            raise MghError(f"{COMMAND_LINE}: {word!r} belongs to no option: write --key value")
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise MghError(f"{COMMAND_LINE}: --{name} needs a value")
        yield name, value


def _parsed(kind: Kind, keys: tuple[str, ...], word: str) -> Any:
    """The value that a word stands for: itself where the key takes text, else what it is in YAML."""
    annotation = _annotation(kind, keys)
    if _is_text(annotation) and not (word == "null" and type(None) in typing.get_args(annotation)):
        return word
    try:
        return parse_yaml(word)
    except yaml.YAMLError as error:
        words = " ".join(str(error).split())
        raise MghError(f"{COMMAND_LINE}: --{'.'.join(keys)} is not valid YAML: {words}") from None


def _annotation(kind: Kind, keys: tuple[str, ...]) -> Any:
    """The type of a key, whichever kinds the tables above it are of; None for a key that does not exist."""
    kinds, annotation = [kind], None
    for key in keys:
        annotation = next(
            (each.model_fields[key].annotation for each in kinds if key in each.model_fields), None
        )
        kinds = tables_in(annotation)
    return annotation


def _is_text(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (Annotated, typing.Union, UnionType):
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        return _is_text(parts[0]) if typing.get_origin(annotation) is Annotated else all(map(_is_text, parts))
    return annotation is str or typing.get_origin(annotation) is Literal


def _nested(keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return value


def _laid_over(below: dict[str, Any], above: dict[str, Any], kind: Kind | None = None) -> dict[str, Any]:
    merged = below | above
    for key, value in above.items():
        old, field = below.get(key), kind.model_fields.get(key) if kind else None
        if isinstance(value, dict) and isinstance(old, dict):
            if field is None:
                merged[key] = _laid_over(old, value)
            elif chosen(field, old | value) == chosen(field, old):
                merged[key] = _laid_over(old, value, kind_of(field, old))
    return merged


def _origin(layers: Sequence[Layer], keys: Keys) -> str:
    """Where a key was last set; for one that was not, the last recipe."""
    for layer in reversed(layers):
        content: Any = layer.content
        found = bool(keys)
        for key in itertools.takewhile(lambda key: isinstance(key, str), keys):
            found = found and isinstance(content, dict) and key in content
            content = content[key] if found else None
        if found:
            return layer.where
    return next((layer.where for layer in reversed(layers) if layer.where != COMMAND_LINE), COMMAND_LINE)
