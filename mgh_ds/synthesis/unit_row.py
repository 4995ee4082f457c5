"""The row that is kept of a unit: the one declaration of a part's columns."""

from dataclasses import dataclass, fields
from typing import Annotated, get_args, get_type_hints

import pyarrow as pa

Text = Annotated[str, pa.string()]
Int32 = Annotated[int, pa.int32()]
Int64 = Annotated[int, pa.int64()]


@dataclass(frozen=True, slots=True)
class UnitRow:
    """A finished unit: the answer as it came, what was decided, and where it came from.

    slots   what was drawn for the prompt, as JSON
    reason  why the answer was refused; empty if it was accepted
    text    as the model wrote it
    """

    unit_id: Text
    task_id: Text
    subtype: Text
    instruction: Text
    index: Int32
    shard: Int32
    round: Int32
    slots: Text
    plan_hash: Text
    prompt_hash: Text
    seed: Int64
    model: Text
    revision: Text
    engine: Text
    attempts: Int32
    finish_reason: Text
    tokens_in: Int32
    tokens_out: Int32
    error: Text
    reason: Text
    text: Text


def _columns() -> pa.Schema:
    hints = get_type_hints(UnitRow, include_extras=True)
    return pa.schema(
        [pa.field(field.name, get_args(hints[field.name])[1], nullable=False) for field in fields(UnitRow)]
    )


COLUMNS = _columns()
