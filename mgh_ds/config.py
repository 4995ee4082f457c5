"""From a YAML file and `--section.key value` overrides to typed, checked configuration."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse
import yaml

from mgh_ds.errors import MghError

Config = TypeVar("Config")


def load_config(kind: type[Config], arguments: Sequence[str]) -> Config:
    """Builds the dataclass `kind` from `--config FILE` and overrides such as `--training.steps 100`.

    Later overrides win. Raises MghError for a missing or malformed file, a key that does not exist (with the
    nearest one that does), a missing required key and a value of the wrong type.
    """
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(kind)
    _check_arguments(kind, arguments)
    try:
        parsed = parser.instantiate(parser.parse_args(list(arguments)))
    except jsonargparse.ArgumentError as error:
        raise MghError(f"configuration: {error}") from None
    return kind(**{name: value for name, value in vars(parsed).items() if name != "config"})


def dump_config(config: Any) -> str:
    """The configuration as YAML text, every key written out; `load_config` reads it back."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


def _check_arguments(kind: type, arguments: Sequence[str]) -> None:
    words = iter(arguments)
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        if name == "config":
            _check_file(kind, Path(value or next(words, "")))
        elif word.startswith("--") and word != "--help":
            _check_key(kind, name.split("."), where="command line")


def _check_file(kind: type, path: Path) -> None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MghError(f"configuration file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MghError(f"configuration file {path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise MghError(
            f"configuration file {path} must hold `key: value` pairs, found {type(content).__name__}"
        )
    for keys in _leaves(content):
        _check_key(kind, keys, where=str(path))


def _leaves(content: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[list[str]]:
    found: list[list[str]] = []
    for key, value in content.items():
        path = (*prefix, str(key))
        found += _leaves(value, path) if isinstance(value, dict) and value else [list(path)]
    return found


def _check_key(kind: type, keys: Sequence[str], where: str) -> None:
    current: type | None = kind
    for depth, key in enumerate(keys):
        if current is dict:
            return  # a table with keys of the user's own
        names = _fields(current) if current is not None else {}
        if key not in names:
            known = ".".join(keys[:depth])
            message = f"{where}: unknown key `{'.'.join(keys)}`"
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
            if near:
                message += f"; did you mean `{'.'.join([*keys[:depth], near[0]])}`?"
            elif names:
                place = f"under `{known}`" if known else "at the top level"
                message += f"; {place} there are: {', '.join(names)}"
            raise MghError(message)
        current = names[key]


def _fields(kind: type) -> dict[str, type | None]:
    """Field name → its dataclass (through `X | None`), `dict` for a table, or None for a plain value."""
    hints = typing.get_type_hints(kind)
    return {field.name: _dataclass_in(hints[field.name]) for field in dataclasses.fields(kind)}


def _dataclass_in(hint: Any) -> type | None:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next((found for part in typing.get_args(hint) if (found := _dataclass_in(part))), None)
    if typing.get_origin(hint) is dict:
        return dict
    return hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None
