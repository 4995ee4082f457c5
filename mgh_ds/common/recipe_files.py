"""Recipes as files: finding them by path or by name, reading their YAML, and following `extends`."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mgh_ds.common.errors import MghError
from mgh_ds.common.problems import nearest

SHIPPED = Path(__file__).parents[1] / "configs"
EXTENDS = "extends"
SUFFIXES = (".yaml", ".yml")


class Layer(NamedTuple):
    """Keys and values from one place: a file, or the command line."""

    where: str
    content: dict[str, Any]


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    pass


# YAML 1.1 takes 1e-4 for text, since it has no point; here it is a number, and such a text is quoted.
for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def parse_yaml(text: str) -> Any:
    """The value that a YAML text stands for. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def to_yaml(content: Any) -> str:
    """The text that `parse_yaml` reads back."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def shipped_recipes() -> dict[str, Path]:
    """Name → file of the recipes that ship with mgh-ds; those in folders are named with them."""
    paths = sorted(SHIPPED.rglob("*.yaml"))
    return {path.relative_to(SHIPPED).with_suffix("").as_posix(): path for path in paths}


def find_recipe(recipe: str, folder: Path = Path()) -> Path:
    """The file that `recipe` means: a path, relative to `folder`, or the name of a recipe that ships.

    Raises MghError, with the nearest name, for what is neither.
    """
    path, shipped = folder / recipe, shipped_recipes()
    if path.is_file():
        return path
    if recipe in shipped:
        return shipped[recipe]
    near = nearest(Path(recipe).stem if path.suffix in SUFFIXES else recipe, shipped)
    if path.suffix in SUFFIXES:
        raise MghError(f"configuration file {path}: No such file or directory{near}")
    raise MghError(
        f"{recipe!r} is neither a configuration file nor the name of a recipe"
        + (near or f"; there are: {', '.join(shipped)}")
    )


def read_layers(recipe: str) -> list[Layer]:
    """A recipe and those that it extends, each with its own keys; the innermost comes last.

    Raises MghError for a file that is missing or malformed, or extends itself.
    """
    path = find_recipe(recipe)
    found: list[Layer] = []
    seen: list[Path] = []
    while True:
        if path.resolve() in seen:
            raise MghError(f"configuration file {path} extends itself by way of {found[-1].where}")
        seen.append(path.resolve())
        content = _read_file(path)
        parent = content.pop(EXTENDS, None)
        found.append(Layer(str(path), content))
        if parent is None:
            return found
        if not isinstance(parent, str):
            raise MghError(f"configuration file {path}: extends must name one file, found {parent!r}")
        try:
            path = find_recipe(parent, path.parent)
        except MghError as error:
            raise MghError(f"{path}: extends: {error}") from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MghError(f"configuration file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        words = " ".join(str(error).split())
        raise MghError(f"configuration file {path} is not valid YAML: {words}") from None
    if not isinstance(content, dict):
        raise MghError(
            f"configuration file {path} must hold `key: value` pairs, found {type(content).__name__}"
        )
    return content
