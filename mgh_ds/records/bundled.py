"""The sample that ships in the package, under the names by which recipes know it."""

from pathlib import Path

from mgh_ds.common.errors import MghError
from mgh_ds.common.problems import nearest

PREFIX = "sample:"
FOLDER = Path(__file__).parent / "sample"


def resolve(path: str | Path) -> Path:
    """The bundled file that `sample:train` or `sample:held_out` names; any other path as it is.

    Raises MghError for a `sample:` name that there is not, with those that there are.
    """
    text = str(path)
    if not text.startswith(PREFIX):
        return Path(path)
    name = text.removeprefix(PREFIX)
    files = {file.stem: file for file in sorted(FOLDER.glob("*.jsonl"))}
    if name not in files:
        known = ", ".join(PREFIX + known for known in files)
        near = nearest(name, files, PREFIX + "{}")
        raise MghError(f"no bundled records are called {text}{near or '.'} Known: {known}")
    return files[name]
