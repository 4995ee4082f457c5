"""Which files are read, by their endings in any case, and why the others of a folder are not.

.jsonl, .ndjson     an object a line
.json               an array of objects, or an object a line
.csv, .tsv          a table with a header
.parquet            a table
.arrow, .feather    a table

The text among them may be packed: .jsonl.gz, .bz2, .xz, .zst.
"""

from dataclasses import dataclass
from pathlib import Path

from mgh_ds.common.errors import MghError
from mgh_ds.records.json_rows import one_object
from mgh_ds.records.rows import file_name, printable

PACKED = (".gz", ".bz2", ".xz", ".zst")
PARQUET = ".parquet"
ARROW = (".arrow", ".feather")
TEXT_TABLES = {".csv": ",", ".tsv": "\t"}
"""Ending → delimiter."""
TEXTS = (".jsonl", ".ndjson", ".json", *TEXT_TABLES)


@dataclass(frozen=True)
class Inputs:
    """The files to read, and what else lies in their folder, each with the reason why it is not read."""

    files: list[Path]
    not_read: dict[str, str]


def input_files(path: Path, *, nested: bool = False) -> Inputs:
    """The file itself, or a folder's files that can be read, by name. Folders in it are entered if `nested`,
    else not: they may be other parts of a data set, such as its test part. Raises MghError if there is none.
    """
    if path.is_file():
        return Inputs([path], {})
    if not path.is_dir():
        raise MghError(f"{path} does not exist: check the path")
    there = (file for file in path.rglob("*") if not file.is_dir()) if nested else path.iterdir()
    reasons = {file: why_not(file) for file in sorted(there)}
    files = [file for file, reason in reasons.items() if not reason]
    not_read = {file_name(file.relative_to(path)): reason for file, reason in reasons.items() if reason}
    if not files:
        raise MghError(
            f"{path} has no file ending in {', '.join([*TEXTS, *ARROW])} or {PARQUET}"
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
    suffix = Path(_unpacked(name)).suffix
    if suffix in TEXTS or (suffix in (PARQUET, *ARROW) and _unpacked(name) == name):
        return suffix
    return None


def stem(path: Path) -> str:
    """A file's name without the ending by which it is read, else without its last."""
    return Path(_unpacked(path.name) if ending(path) else path.name).stem


def _unpacked(name: str) -> str:
    """A file's name without the ending that says that it is packed."""
    packed = Path(name).suffix
    return name[: -len(packed)] if packed.lower() in PACKED else name
