"""The base of all configuration classes: what a key means and may hold stands beside the key."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mgh_ds.common.errors import MghError
from mgh_ds.common.keys import chosen
from mgh_ds.common.problems import explain


class Settings(BaseModel):
    """A table of a recipe: it cannot be changed, knows its keys, and takes numbers for numbers alone.

    The docstring under a key is its description, `Field(gt=0)` and the like are its bounds. A key may hold
    one of several kinds of table, told apart by a name in it: `Annotated[A | B,
    Field(discriminator="name")]`; a table without that name is of the default's kind. Validators raise
    ValueError, in words that go on where the name of the key or table ends.

    Raises MghError, with the name of the key, for values that it does not take.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            kind = type(self)
            raise MghError(explain(kind, error, values, prefix=kind.__name__).text) from None

    # Tables within a table must not come here: the outermost alone knows the whole name of a key.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _name_what_is_chosen_by_default(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        named = {
            key: {field.discriminator: chosen(field, table)} | table
            for key, field in cls.model_fields.items()
            if field.discriminator and isinstance(table := values.get(key), dict) and chosen(field, table)
        }
        return values | named

    def replace(self, **changes: Any) -> Self:
        """The same settings with other values for some keys, which are checked."""
        return type(self)(**{**dict(self), **changes})
