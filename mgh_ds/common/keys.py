"""What the keys of settings may hold: kinds of table, words, bounds, and how these are called."""

import typing
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, BeforeValidator, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

NOUNS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    bool: ("true or false", "truth values"),
    type(None): ("null", "nulls"),
}


def tables_in(annotation: Any) -> list[type[BaseModel]]:
    """The kinds of table that a value of this type may be or hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in typing.get_args(annotation) for kind in tables_in(part)]


def choices(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """Name → kind of table, where a key has several kinds that are told apart by a name in the table."""
    if not field.discriminator:
        return {}
    return {
        name: kind
        for kind in tables_in(field.annotation)
        for name in literals(kind.model_fields[str(field.discriminator)].annotation)
    }


def chosen(field: FieldInfo, table: Mapping[str, Any]) -> Any:
    """The name of the kind that a table is of, its own or the default's, where the key has several kinds."""
    if not field.discriminator:
        return None
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    return table.get(str(field.discriminator), getattr(default, str(field.discriminator), None))


def kind_of(field: FieldInfo, table: Mapping[str, Any]) -> type[BaseModel] | None:
    """The kind that a table is of; None where its name says none, and for a table of free keys."""
    if field.discriminator:
        name = chosen(field, table)
        return next((kind for choice, kind in choices(field).items() if choice == name), None)
    return next(iter(tables_in(field.annotation)), None)


def is_free_table(annotation: Any) -> bool:
    """Whether a value of this type may be a table with keys of the user's own."""
    return typing.get_origin(annotation) is dict or any(map(is_free_table, typing.get_args(annotation)))


def literals(annotation: Any) -> list[Any]:
    """The words that a type is limited to; none for a type that is not."""
    if typing.get_origin(annotation) is Literal:
        return list(typing.get_args(annotation))
    if isinstance(annotation, WithJsonSchema):  # a table's names, which a validator looks up
        return list((annotation.json_schema or {}).get("enum", []))
    return [word for part in typing.get_args(annotation) for word in literals(part)]


def expected(annotation: Any, metadata: Sequence[Any] = (), *, plural: bool = False) -> str:
    """What a value of this type is called, such as "a list of at least one whole number"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        written = [part.json_schema_input_type for part in arguments[1:] if isinstance(part, BeforeValidator)]
        kind = next((each for each in written if each is not PydanticUndefined), arguments[0])
        return expected(kind, _limits(arguments[1:]), plural=plural)
    if origin in (typing.Union, UnionType):
        return " or ".join(dict.fromkeys(expected(part, metadata, plural=plural) for part in arguments))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is list:
        least = next((part.min_length for part in metadata if isinstance(part, MinLen)), 0)
        count = {0: "", 1: "at least one "}.get(least, f"at least {least} ")
        return f"{'lists' if plural else 'a list'} of {count}{_bare(arguments[0], plural=least != 1)}"
    if origin is dict or tables_in(annotation):
        return "tables" if plural else "a table"
    return NOUNS.get(annotation, ("a value", "values"))[plural]


def bounds(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What the numbers of a value of this type must do, such as "be above 0"; empty where nothing is said."""
    low = next((part for part in metadata if isinstance(part, Gt | Ge)), None)
    high = next((part for part in metadata if isinstance(part, Lt | Le)), None)
    if low is None and high is None:
        arguments = typing.get_args(annotation)
        if typing.get_origin(annotation) is Annotated:
            return bounds(arguments[0], _limits(arguments[1:]))
        return next(filter(None, map(bounds, arguments)), "")
    if isinstance(low, Ge) and isinstance(high, Le):
        return f"lie between {low.ge:,} and {high.le:,}"
    if isinstance(low, Ge) and not high:
        return f"be {low.ge:,} or more" if low.ge else "not be negative"
    words = [f"above {low.gt:,}" if isinstance(low, Gt) else f"at least {low.ge:,}"] if low else []
    words += [f"below {high.lt:,}" if isinstance(high, Lt) else f"at most {high.le:,}"] if high else []
    return f"be {' and '.join(words)}"


def _limits(annotations: Sequence[Any]) -> list[Any]:
    """What stands beside a type in `Annotated`, that of a `Field` taken out of it."""
    return [
        each for part in annotations for each in (part.metadata if isinstance(part, FieldInfo) else [part])
    ]


def _bare(annotation: Any, *, plural: bool) -> str:
    return expected(annotation, plural=plural).removeprefix("a ")
