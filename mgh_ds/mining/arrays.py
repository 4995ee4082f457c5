"""Arrays that were kept in files: what is damaged is told by name, and nothing is chosen by it."""

from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from mgh_ds.common.errors import MghError

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]

# What numpy and zipfile raise for files that were cut short, or of which a bit flipped.
DAMAGE = (OSError, EOFError, ValueError, KeyError, RuntimeError, SyntaxError, TokenError, BadZipFile)


class Kind(NamedTuple):
    """What an array is."""

    shape: tuple[int, ...]
    dtype: npt.DTypeLike


def read_arrays(path: Path, **kinds: Kind) -> list[Array]:
    """The arrays with these names of a `.npz` file, or the only one of a `.npy` file, in that order.

    Raises MghError if the file is damaged, or if an array is not of its kind.
    """
    try:
        with path.open("rb") as file:
            found = _arrays(file, path.suffix, list(kinds))
    except DAMAGE as error:
        raise damaged(path, " ".join(str(error).split()) or "it ends too early") from None
    for (name, kind), array in zip(kinds.items(), found, strict=True):
        if (array.shape, array.dtype) != (kind.shape, np.dtype(kind.dtype)):
            expected = f"{np.dtype(kind.dtype)} {list(kind.shape)}"
            raise damaged(path, f"{name}: {array.dtype} {list(array.shape)} instead of {expected}")
    return found


def _arrays(file: BinaryIO, suffix: str, names: list[str]) -> list[Array]:
    # By suffix, as np.load, which looks at the first bytes, takes what is damaged for pickled objects.
    if suffix == ".npy":
        return [np.lib.format.read_array(file, allow_pickle=False)]
    with np.lib.npyio.NpzFile(file, allow_pickle=False) as found:
        return [found[name] for name in names]


def damaged(path: Path, reason: object) -> MghError:
    """The error for a file that can be made anew."""
    return MghError(f"{path} is damaged ({reason}): remove it, and it is made anew")


def require_kept_scores(path: Path, scores: Floats, valid: Bools | None = None) -> None:
    """Raises MghError unless the scores that `path` kept are finite where they are `valid` (None:
    everywhere), and -inf elsewhere."""
    right = (
        np.isfinite(scores) if valid is None else np.where(valid, np.isfinite(scores), np.isneginf(scores))
    )
    if not right.all():
        raise damaged(path, f"{int((~right).sum()):,} of {right.size:,} scores are NaN or infinite")


def require_given_scores(scores: Floats, by: str, text: Callable[[int], str]) -> None:
    """Raises MghError if a score [n] that the model `by` gave is not finite; `text` names the i-th text."""
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise MghError(
            f"{by} gave NaN or infinity to {len(bad):,} of {len(scores):,} texts, one of them "
            f"{text(int(bad[0]))}: choose another one"
        )
