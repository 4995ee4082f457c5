"""Where the rows of a data set come from: files here, a folder of `datasets`, or a name on the hub."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgh_ds.common.errors import MghError
from mgh_ds.records import hub_rows
from mgh_ds.records.inputs import Inputs, ending, input_files
from mgh_ds.records.reader import read_rows
from mgh_ds.records.rows import ErrorReport, Row, file_name
from mgh_ds.records.saved import saved_files, saved_splits
from mgh_ds.records.streams import Progress
from mgh_ds.records.tables import Reads, read_arrow

ReadRows = Callable[[ErrorReport, Progress, Reads], Iterator[Row]]
Listing = Callable[[Path, str | None], Inputs]
"""The files of a folder, in the order in which they are read, and what else is there; of a split, or None."""

DEFAULT_SPLIT = "train"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Origin:
    """What the user says of where a data set lies: a path here, or, if it is a text, OWNER/NAME on the hub.

    config, split   which part of it; None: the only config, and the split `train`
    revision        of the hub: a branch, a tag or a commit; None: main
    """

    place: str | Path
    config: str | None = None
    split: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Source:
    """Rows that can be read.

    name       for people, and for what is wrong with all of it
    read       the rows, once; what cannot be decoded goes to the report
    notes      where they came from, as plain JSON values: kept in a store's manifest
    not_read   what else lies there, with the reason why it is not read
    size       in bytes, of which `progress` is told; None where nobody knows
    """

    name: str
    read: ReadRows
    notes: dict[str, Any]
    not_read: dict[str, str] = field(default_factory=dict)
    size: int | None = None


def open_source(origin: Origin, listing: Listing | None = None) -> Source:
    """The rows at `origin`: of a path that exists here the files, else by its name from the hub.

    A folder is read as it lies (`records.inputs`), or as `datasets` finds its config and split if one of them
    is asked for, as in a copy of a repository of the hub. `listing` is a format's own, whose folder has a
    layout that it knows.

    Raises MghError if there is nothing, if it has no such config or split, and if the hub cannot be reached.
    """
    path = Path(origin.place)
    if not path.exists():
        return _of_hub(origin)
    if origin.revision:
        raise MghError(f"--revision is for names on the hub, and {path} is a path here")
    if listing:
        return _of_files(path, listing(path, origin.split))
    if splits := saved_splits(path):
        _refuse_config(origin)
        return _of_saved(path / chosen_split(path, splits, origin.split))
    if saved_files(path):
        _refuse_config(origin)
        if origin.split:
            raise MghError(f"{path} is one data set, without splits: leave --split out")
        return _of_saved(path)
    if not origin.config and not origin.split:
        return _of_files(path, input_files(path))
    if not path.is_dir():
        raise MghError(f"--config and --split choose part of a folder, and {path} is a file")
    return _of_datasets(file_name(path), origin, notes={"folder": path.name})


def _of_files(path: Path, inputs: Inputs) -> Source:
    def read(report: ErrorReport, progress: Progress, reads: Reads) -> Iterator[Row]:
        for file in inputs.files:
            yield from read_rows(file, report, progress, reads)

    notes = {"files": [file.name for file in inputs.files]}
    size = sum(file.stat().st_size for file in inputs.files)
    return Source(file_name(path), read, notes, inputs.not_read, size)


def _of_saved(folder: Path) -> Source:
    """One table, of whatever number of files; its name is the folder's, or that above a split's."""
    found = saved_files(folder)
    if not found:
        raise MghError(f"{folder} is no data set that was saved whole: it has no state.json")
    name = file_name(folder.parent if saved_splits(folder.parent) else folder)

    def read(report: ErrorReport, progress: Progress, reads: Reads) -> Iterator[Row]:
        yield from read_arrow(found, report, progress, reads, name=name)

    missing = [file for file in found if not file.is_file()]
    if missing:
        raise MghError(f"{missing[0]} does not exist, though {folder.name} says so: fetch the folder again")
    size = sum(file.stat().st_size for file in found)
    return Source(name, read, {"files": [f"{folder.name}/{file.name}" for file in found]}, size=size)


def _of_hub(origin: Origin) -> Source:
    name = str(origin.place)
    if isinstance(origin.place, Path) or not HUB_NAME.fullmatch(name) or ending(Path(name)):
        raise MghError(f"{name} does not exist: check the path (a data set on the hub is named OWNER/NAME)")
    owner = name.partition("/")[0]
    if Path(owner).is_dir():
        raise MghError(f"{name} does not exist: there is a folder {owner} here, which has none of that name")
    asked = {"config": origin.config, "split": origin.split, "revision": origin.revision}
    return _of_datasets(name, origin, notes={"hub": name, **{k: v for k, v in asked.items() if v}})


def _of_datasets(name: str, origin: Origin, notes: dict[str, Any]) -> Source:
    split, on_hub = origin.split or DEFAULT_SPLIT, "hub" in notes
    place = name if on_hub else str(Path(origin.place).resolve())
    batches = hub_rows.open_batches(place, origin.config, split, origin.revision, on_hub=on_hub)

    def read(report: ErrorReport, progress: Progress, reads: Reads) -> Iterator[Row]:  # noqa: ARG001
        yield from hub_rows.read(name, batches, report, reads)

    return Source(name, read, notes)


def chosen_split(path: Path, splits: Sequence[str], asked: str | None) -> str:
    """The split that is asked for, else the only one, else `train`. Raises MghError if there is none such."""
    wanted = asked or (splits[0] if len(splits) == 1 else DEFAULT_SPLIT)
    if wanted not in splits:
        raise MghError(f"{path} has no split '{wanted}': --split must be one of {', '.join(splits)}")
    return wanted


def _refuse_config(origin: Origin) -> None:
    if origin.config:
        raise MghError(f"{origin.place} was saved by `datasets`, without configs: leave --config out")
