"""What is wrong with a value of a recipe, in one line that names its key and what it may be."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mgh_ds.common.keys import bounds, choices, expected, is_free_table, literals, tables_in

Keys = tuple[str | int, ...]

OUT_OF_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")
UNKNOWN_KEY = ("extra_forbidden", "invalid_key")
OF_FREE_KEY = "[key]"  # ends the place of a wrong key in a table of free keys
UNKNOWN_CHOICE = "union_tag_invalid"
NO_CHOICE = "union_tag_not_found"


class Problem(NamedTuple):
    """The key that is to blame (names, and numbers within lists), and what is wrong with it."""

    keys: Keys
    text: str


def explain(kind: type[BaseModel], error: ValidationError, values: Any, prefix: str = "") -> Problem:
    """The first thing to mend in `values`, which `kind` refused; `prefix` is put before every key."""
    found = error.errors(include_url=False)
    # A misspelt key leaves another one missing: it comes first.
    first = min(found, key=lambda each: each["type"] not in (*UNKNOWN_KEY, UNKNOWN_CHOICE))
    place = _Place.of(kind, first["loc"])
    # Where several types are allowed, a bound that is broken says more than a type that was not meant.
    broken = (
        each for each in found if each["type"] in OUT_OF_BOUNDS and _Place.of(kind, each["loc"]) == place
    )
    return _describe(place, next(broken, first), values, prefix)


def nearest(word: object, known: Iterable[object], pattern: str = "{}") -> str:
    """`; did you mean …?` with that of `known` which is most like `word`, of several the first by name, put
    into `pattern`; or nothing where none is like it."""

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, name, str(word)).ratio()

    near = max(sorted(map(str, known)), key=likeness, default="")
    return f"; did you mean `{pattern.format(near)}`?" if near and likeness(near) >= 0.5 else ""


class _Place(NamedTuple):
    """Where an error is: its keys, the kind of table that holds the last of them, and what that is there.

    `field` is None for a key that the table does not have. `chooser` is the key under which the table was
    chosen among several kinds, if it was.
    """

    keys: Keys
    table: type[BaseModel]
    field: FieldInfo | None
    chooser: FieldInfo | None

    @classmethod
    def of(cls, kind: type[BaseModel], location: Keys) -> "_Place":
        keys: list[str | int] = []
        rest = list(location)
        table, field, chooser = kind, None, None
        while rest:
            keys.append(rest.pop(0))
            field = table.model_fields.get(str(keys[-1]))
            if field is None or not tables_in(field.annotation):
                if field is not None and is_free_table(field.annotation):
                    keys += rest
                break  # what follows is a place in a list or a name for one of several types: all is to blame
            if rest and isinstance(rest[0], int):
                keys.append(rest.pop(0))
            if rest and field.discriminator:
                table, chooser = choices(field)[str(rest.pop(0))], field
            elif rest:
                table, chooser = tables_in(field.annotation)[0], None
        return cls(tuple(keys), table, field, chooser)


def _describe(place: _Place, error: Any, values: Any, prefix: str) -> Problem:
    kind, keys, field = error["type"], place.keys, place.field
    if kind in UNKNOWN_KEY or keys[-1:] == (OF_FREE_KEY,):
        keys = tuple(key for key in keys if key != OF_FREE_KEY)
        value = error["input"] if kind in UNKNOWN_KEY else None
        return Problem(keys, _unknown(place._replace(keys=keys), value, prefix))
    path = _path(keys, prefix)
    if kind == "value_error":
        # What a validator says of one key goes on where the key's name ends; of a table, it names keys in it.
        colon = ":" if field is None or tables_in(field.annotation) else ""
        return Problem(keys, f"{path}{colon if path else ''} {error['ctx']['error']}".strip())
    if field is None:
        return Problem(keys, f"{path} must be a table, found {values!r}".strip())
    if kind == "missing":
        return Problem(keys, f"{path} is missing: it must be {expected(field.annotation, field.metadata)}")
    if kind == UNKNOWN_CHOICE:
        keys, path = (*keys, str(field.discriminator)), f"{path}.{field.discriminator}"
        return Problem(keys, f"{path} {_one_of(choices(field), error['ctx']['tag'])}")
    if kind == NO_CHOICE:
        keys, path = (*keys, str(field.discriminator)), f"{path}.{field.discriminator}"
        return Problem(keys, f"{path} is missing: it must be one of {', '.join(choices(field))}")
    if kind == "literal_error":
        return Problem(keys, f"{path} {_one_of(literals(field.annotation), error['input'])}")
    must = bounds(field.annotation, field.metadata) if kind in OUT_OF_BOUNDS else None
    if kind == "finite_number":
        must = "be finite"
    must = must or f"be {expected(field.annotation, field.metadata)}"
    return Problem(keys, f"{path} must {must}, found {_value(values, keys)!r}")


def _unknown(place: _Place, value: Any, prefix: str) -> str:
    *above, key = place.keys
    path = _path((*above, key, *_first_leaf(value)), prefix)
    owners = []
    if place.chooser:
        several, name = choices(place.chooser), _path((*above, str(place.chooser.discriminator)), prefix)
        owners = [other for other, kind in several.items() if key in kind.model_fields]
    if owners:
        own = next(each for each, kind in several.items() if kind is place.table)
        return f"{path} belongs to {' and '.join(owners)}, but {name} is {own}"
    known = literals(place.field.annotation) if place.field else list(place.table.model_fields)
    near = nearest(key, known, _path((*above, "{}"), prefix))
    where = f"under `{_path(above, prefix)}`" if above or prefix else "at the top level"
    return f"unknown key `{path}`" + (near or f"; {where} there are: {', '.join(known)}")


def _one_of(known: Iterable[object], found: object) -> str:
    words = list(map(str, known))
    return f"must be one of {', '.join(words)}, found {found!r}{nearest(found, words)}"


def _path(keys: Sequence[str | int], prefix: str) -> str:
    path = prefix
    for key in keys:
        path += f"[{key}]" if isinstance(key, int) else f".{key}"
    return path.removeprefix(".")


def _value(values: Any, keys: Keys) -> Any:
    for key in keys:
        values = getattr(values, str(key)) if isinstance(values, BaseModel) else values[key]
    return values


def _first_leaf(value: Any) -> Iterator[str]:
    while isinstance(value, dict) and value:
        key, value = next(iter(value.items()))
        yield str(key)
