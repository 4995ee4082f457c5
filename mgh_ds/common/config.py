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

from mgh_ds.common.errors import MghError

Config = TypeVar("Config")


def load_config(kind: type[Config], arguments: Sequence[str]) -> Config:
    """Builds the dataclass `kind` from `--config FILE` and overrides such as `--training.steps 100`.

    Later overrides win. A file may begin with `extends: other.yaml` and hold only what differs from that one
    (see `read_recipe`). Raises MghError for a missing or malformed file, a key that does not exist (with the
    nearest one that does), a missing required key and a value of the wrong type.
    """
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(kind)
    checked = _checked_arguments(kind, arguments)
    try:
        parsed = parser.instantiate(parser.parse_args(checked))
    except jsonargparse.ArgumentError as error:
        raise MghError(f"configuration: {' '.join(str(error).split())}") from None
    return kind(**{name: value for name, value in vars(parsed).items() if name != "config"})


def dump_config(config: Any) -> str:
    """The configuration as YAML text, every key written out; `load_config` reads it back."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


def read_recipe(path: Path) -> dict[str, Any]:
    """The keys of a YAML file, laid over those of the file that its `extends` names, and so on.

    `extends` is a path relative to the file; tables are merged key by key, anything else is replaced. Raises
    MghError for a file that is missing or malformed, or extends itself.
    """
    return _merged(_chain(path))


def _checked_arguments(kind: type, arguments: Sequence[str]) -> list[str]:
    """The arguments, their keys known to exist; the name of a file gives way to its keys, as YAML text."""
    words, checked = iter(arguments), []
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        if name == "config":
            chain = _chain(Path(value or next(words, "")))
            for path, content in chain:
                for keys in _leaves(content):
                    _check_key(kind, keys, where=str(path))
            word = f"--config={yaml.safe_dump(_merged(chain))}"  # the parser takes a text for a file's
        elif word.startswith("--") and word != "--help":
            _check_key(kind, name.split("."), where="command line")
        checked.append(word)
    return checked


def _chain(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A file and those that it extends, each with its own keys; the innermost comes last."""
    found: list[tuple[Path, dict[str, Any]]] = []
    while True:
        if path.resolve() in (earlier.resolve() for earlier, _ in found):
            raise MghError(f"configuration file {path} extends itself by way of {found[-1][0]}")
        content = _read_file(path)
        parent = content.pop("extends", None)
        found.append((path, content))
        if parent is None:
            return found
        if not isinstance(parent, str):
            raise MghError(f"configuration file {path}: extends must name one file, found {parent!r}")
        path = path.parent / parent


def _merged(chain: Sequence[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for _, content in reversed(chain):
        merged = _laid_over(merged, content)
    return merged


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _laid_over(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return below | above | both


def _read_file(path: Path) -> dict[str, Any]:
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
    return content


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


from pydantic import BaseModel, ConfigDict  # noqa: E402


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
