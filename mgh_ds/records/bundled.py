"""The records that ship in the package, under the names by which recipes know them.

`sample` is small enough to read; `mgh` is what a capable model wrote when it was asked by `mgh-ds synth`. A
data card stands beside each.
"""

from pathlib import Path

from mgh_ds.common.errors import MghError
from mgh_ds.common.problems import nearest

HERE = Path(__file__).parent
SETS = ("mgh", "sample")


def resolve(path: str | Path) -> Path:
    """The bundled file that a name such as `sample:train` or `mgh:held_out` stands for; any other path as it
    is.

    Raises MghError for a part that a bundled set does not have, with those that there are.
    """
    bundled, _, part = str(path).partition(":")
    if not part or bundled not in SETS:
        return Path(path)
    files = {file.stem: file for file in sorted((HERE / bundled).glob("*.jsonl"))}
    if part not in files:
        near = nearest(part, files, bundled + ":{}")
        known = ", ".join(f"{bundled}:{known}" for known in files)
        raise MghError(f"no bundled records are called {path}{near or '.'} Known: {known}")
    return files[part]
