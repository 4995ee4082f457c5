"""Folders that say what their files were made of, so that nothing else is added to them."""

from pathlib import Path
from typing import Any

from mgh_ds.common import files
from mgh_ds.common.differences import differences
from mgh_ds.common.errors import MghError


def label(path: Path, made_of: dict[str, Any]) -> None:
    """Writes `made_of` as the JSON file `path` unless it is there. Raises MghError, which names the first
    difference, if it says something else."""
    if not path.exists():
        files.write_json(path, made_of)
        return
    different = differences(files.read_json(path), made_of)
    if different:
        raise MghError(
            f"{path.parent} was made of something else ({different[0]}): choose another folder, or remove it"
        )
