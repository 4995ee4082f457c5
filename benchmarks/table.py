"""Result files: CSV that begins with what it was measured with, one `# name,value` a line.

A spreadsheet shows these lines as two cells each, pandas skips them with `comment="#"`.
"""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mgh_ds.common import files

Cell = str | int | float | None


class Row(NamedTuple):
    """One measurement of one kernel. A figure that does not exist is None, and `note` says why.

    Attributes:
        mask: full, or causal.
        heads: query heads / key heads.
        n: the longest sequence; `sequences` and `tokens` say how large the batch is.
        direction: forward, backward, or both together (forward+backward); check, compile and step where
            something else was done, see `agenda.Task`.
        what: what was measured.
        ms: median milliseconds.
        tflops: TFLOP/s of attention: 4·d FLOP a pair of query and key forward, 10·d backward. Not counted:
            what is computed twice, and the column sums.
        column_tflops: the same for the column sums: 2·d FLOP a pair.
        floor_share: the time of the serial model in `floors`, divided by the time measured.
        peak_mib: memory beyond the inputs; backward it is that of forward and backward together.
        host_us: microseconds the host needs to start it.
        first_s: seconds of the first call, in which kernels are compiled and algorithms chosen; in no other
            figure.
        ratio: of a check, its largest error as a share of what is allowed, inf where there is no result; of a
            step, its time over that with mean pooling.
    """

    layout: str
    mask: str
    dtype: str
    d: int
    heads: str
    n: int
    sequences: int
    tokens: int
    direction: str
    what: str
    ms: float | None = None
    tflops: float | None = None
    column_tflops: float | None = None
    floor_share: float | None = None
    peak_mib: float | None = None
    host_us: float | None = None
    first_s: float | None = None
    ratio: float | None = None
    note: str = ""


def write(
    path: Path,
    environment: Mapping[str, str],
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    exact: Collection[str] = (),
) -> None:
    """Replaces the file in one step. Figures are rounded, but in the columns `exact`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows((f"# {name}", value) for name, value in environment.items())
    writer.writerow(columns)
    writer.writerows(
        [cell if name in exact else _shown(cell) for name, cell in zip(columns, row, strict=True)]
        for row in rows
    )
    files.write_text(path, text.getvalue())


def write_rows(path: Path, environment: Mapping[str, str], rows: Sequence[Row]) -> None:
    """A file of `Row`s, which `rows` reads. Ratios are held against a limit then, which 1.0004 exceeds."""
    write(path, environment, Row._fields, rows, exact=("ratio",))


def read(path: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """What it was measured with, and the rows by column; cells are text, empty where there is no figure."""
    lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    head = [line for line in lines if line[0].startswith("# ")]
    columns, *rows = lines[len(head) :]
    environment = {name.removeprefix("# "): value for name, value in head}
    return environment, [dict(zip(columns, row, strict=True)) for row in rows]


def rows(found: Sequence[Mapping[str, str]]) -> list[Row]:
    """What `read` gave of a file of `Row`s, with its figures as numbers."""
    numbers = [name for name, default in Row._field_defaults.items() if default is None]
    kinds = dict.fromkeys(("d", "n", "sequences", "tokens"), int) | dict.fromkeys(numbers, _figure)
    return [Row._make(kinds.get(name, str)(row[name]) for name in Row._fields) for row in found]


def _figure(cell: str) -> float | None:
    return float(cell) if cell else None


def _shown(cell: Cell) -> Cell:
    """About four significant digits: no clock here is better than that."""
    if not isinstance(cell, float):
        return cell
    return f"{cell:.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
