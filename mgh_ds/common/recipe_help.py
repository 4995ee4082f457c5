"""What `--help` says of a recipe: every key with its type, default, description and bounds."""

import json
import textwrap
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from mgh_ds.common.keys import bounds, choices, expected, tables_in


def help_text(kind: type[BaseModel]) -> str:
    """Every key of a recipe with its type, default and description."""
    lines = ["--config RECIPE", "    a YAML file, or the name of a recipe that ships with mgh-ds"]
    for keys, field, note in _described(kind):
        must = bounds(field.annotation, field.metadata)
        default = "required" if field.is_required() else f"default: {_default(field)}"
        about = [" ".join((field.description or "").split()), f"Must {must}." if must else "", note]
        lines.append(f"--{keys} ({expected(field.annotation, field.metadata)}; {default})")
        lines.append(textwrap.indent(textwrap.fill(" ".join(filter(None, about)), 100), "    "))
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "a table with the defaults below"
    return json.dumps(to_jsonable_python(value, exclude_none=True), ensure_ascii=False)


def _described(
    kind: type[BaseModel], prefix: str = "", note: str = ""
) -> Iterator[tuple[str, FieldInfo, str]]:
    """Every key with its full name, those of tables after the table's; `note` says when a key exists."""
    for key, field in kind.model_fields.items():
        name, kinds = f"{prefix}{key}", tables_in(field.annotation)
        if field.annotation not in kinds and not field.discriminator:
            yield name, field, note
        for inner in kinds:
            own = [choice for choice, each in choices(field).items() if each is inner]
            only = f"Where {name}.{field.discriminator} is {' or '.join(own)}." if own else note
            yield from _described(inner, f"{name}.", only)
