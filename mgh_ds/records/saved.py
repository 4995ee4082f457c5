"""Folders that `datasets` saves (`save_to_disk`) and loads (`load_from_disk`): which Arrow files they hold.

A data set has `state.json`, which names its files in their order; several splits stand in a folder each,
which `dataset_dict.json` beside them names. The library itself is not needed.
"""

from pathlib import Path
from typing import Any

from mgh_ds.common import files
from mgh_ds.common.errors import MghError

STATE, SPLITS = "state.json", "dataset_dict.json"


def saved_splits(folder: Path) -> list[str]:
    """The names of a folder's splits, which are folders in it; empty if it is no folder of splits. Raises
    MghError if its list is damaged."""
    path = folder / SPLITS
    return _names(path, "splits", lambda each: each) if path.is_file() else []


def saved_files(folder: Path) -> list[Path]:
    """The Arrow files of a saved data set, in their order; empty if the folder is none. Raises MghError if
    its list is damaged, and if its rows are picked by an index, as the library saved them before 2.0."""
    path = folder / STATE
    if not path.is_file():
        return []
    state = files.read_json(path)
    if isinstance(state, dict) and state.get("_indices_data_files"):
        raise MghError(f"{folder} picks its rows by an index: save it again with a newer `datasets`")
    return [folder / name for name in _names(path, "_data_files", lambda each: each["filename"])]


def _names(path: Path, key: str, name_of: Any) -> list[str]:
    """Of files or folders that lie beside `path`."""
    try:
        names = [name_of(each) for each in files.read_json(path)[key]]
    except (KeyError, TypeError) as error:
        raise MghError(f"{path} names no files of a data set: {error!r}") from None
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
            raise MghError(f"{path} names {name!r}, which is nothing that lies beside it")
    return names
