"""Which files are read, by their endings in any case, and why the others of a folder are not.

.jsonl, .ndjson     an object a line
.json               an array of objects, or an object a line
.csv, .tsv          a table with a header
.parquet            a table

The text among them may be packed: .jsonl.gz.
"""

from dataclasses import dataclass
from pathlib import Path

from mgh_ds.common.errors import MghError
from mgh_ds.records.json_rows import one_object
from mgh_ds.records.rows import file_name, printable

PACKED = ".gz"
PARQUET = ".parquet"
TEXT_TABLES = {".csv": ",", ".tsv": "\t"}
"""Ending → delimiter."""
TEXTS = (".jsonl", ".ndjson", ".json", *TEXT_TABLES)


@dataclass(frozen=True)
class Inputs:
    """The files to read, and what else lies in their folder, each with the reason why it is not read."""

    files: list[Path]
    not_read: dict[str, str]


def input_files(path: Path) -> Inputs:
    """The file itself, or a folder's files that can be read, by name. Folders in it are not entered: they may
    be other parts of a data set, such as its test part. Raises MghError if there is none."""
    if path.is_file():
        return Inputs([path], {})
    if not path.is_dir():
        raise MghError(f"{path} does not exist: check the path")
    reasons = {file: why_not(file) for file in sorted(path.iterdir())}
    files = [file for file, reason in reasons.items() if not reason]
    not_read = {file_name(Path(file.name)): reason for file, reason in reasons.items() if reason}
    if not files:
        raise MghError(
            f"{path} has no file ending in {', '.join(TEXTS)} or {PARQUET}"
            + (f". What it has: {listed(not_read)}" if not_read else "")
        )
    return Inputs(files, not_read)


def listed(not_read: dict[str, str], most: int = 10) -> str:
    """Files that are not read, each with the reason, in one line."""
    shown = [f"{printable(name)} {reason}" for name, reason in list(not_read.items())[:most]]
    return "; ".join([*shown, *([f"and {len(not_read) - most:,} more"] if len(not_read) > most else [])])


def why_not(file: Path) -> str | None:
    """What a file of a folder is, if it is not read."""
    if file.is_dir():
        return "is a folder"
    if not file.is_file():
        return "is no file"
    kind = ending(file)
    if kind is None:
        return "has another ending"
    try:
        return one_object(file) if kind == ".json" else None
    except OSError:  # whoever reads it says what is wrong
        return None


def ending(path: Path) -> str | None:
    """The ending that says how a file is read, in lower case and without that of a packed one; None for
    others."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(PACKED)).suffix
    if suffix in TEXTS or (suffix == PARQUET and not name.endswith(PACKED)):
        return suffix
    return None


def stem(path: Path) -> str:
    """A file's name without the ending by which it is read, else without its last."""
    name = path.name
    if ending(path) and name.lower().endswith(PACKED):
        name = name[: -len(PACKED)]
    return Path(name).stem
