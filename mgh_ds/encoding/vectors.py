"""A folder of vectors, made by any number of processes.

    manifest.json      what they are of: texts and model, instruction, dtype, dimensions
    part-00000.npy     [rows, dimensions]; each part but the last has `part_rows` rows
    part-00000.json    whose part it is, its checksum, and the ids of its rows; written last: with it the part
                       is complete

Row i of part p is text p · part_rows + i.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mgh_ds.common import files
from mgh_ds.common.checksums import checksum
from mgh_ds.common.differences import differences
from mgh_ds.common.errors import MghError

MANIFEST = "manifest.json"
PART_ROWS = 8192
VERSION = 1  # raised when the same texts and model give other vectors

StoredType = Literal["float32", "float16"]
Floats = npt.NDArray[np.floating]


class Manifest(BaseModel):
    """What the vectors of a folder are. `named` is for people: the same files may lie elsewhere tomorrow."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    version: int = VERSION
    model: dict[str, str]  # the model's fingerprint (`model.fingerprint`)
    options: dict[str, Any]  # how the model is used: pooling, longest input, precision
    side: Literal["query", "document"]
    instruction: str | None
    prompt: str  # precedes a text that has no instruction
    dtype: StoredType
    dimensions: Annotated[int, Field(ge=1)]
    count: Annotated[int, Field(ge=1)]
    sha256: str  # of ids, instructions and texts in their order (`texts.survey`)
    part_rows: Annotated[int, Field(ge=1)] = PART_ROWS
    named: dict[str, Any]

    def decisive(self) -> dict[str, Any]:
        """What the vectors depend on."""
        return self.model_dump(exclude={"named"})

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the vectors depend on, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.decisive(), sort_keys=True).encode()).hexdigest()


class Vectors:
    """A folder with its manifest; parts may be missing yet."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Use `Vectors.begin` or `Vectors.open`."""
        self.folder, self.manifest = folder, manifest
        self.parts = -(-manifest.count // manifest.part_rows)
        self._fingerprint = manifest.fingerprint

    @classmethod
    def begin(cls, folder: Path, manifest: Manifest) -> "Vectors":
        """The folder, with its manifest written if that is not there. Raises MghError, which names the first
        difference, if the folder is for other vectors."""
        path = folder / MANIFEST
        # Looked at before the manifest: what another worker adds meanwhile has a manifest beside it.
        occupied = folder.exists() and any(not each.name.startswith(".") for each in folder.iterdir())
        if path.exists():
            found = _read_manifest(path)
            different = differences(found.decisive(), manifest.decisive())
            if different:
                raise MghError(
                    f"{folder} holds other vectors ({different[0]}): choose another folder, or remove it"
                )
            return cls(folder, found)
        if occupied:
            raise MghError(f"{folder} holds something else than vectors: choose another folder")
        files.write_json(path, manifest.model_dump())
        return cls(folder, manifest)

    @classmethod
    def open(cls, folder: Path) -> "Vectors":
        """The vectors in `folder`, all of them. Raises MghError if there are none, or parts are missing."""
        vectors = cls(folder, _read_manifest(folder / MANIFEST))
        missing = [part for part in range(vectors.parts) if not vectors.is_done(part)]
        if missing:
            raise MghError(
                f"{folder} lacks {len(missing)} of {vectors.parts} parts, the first being "
                f"{vectors.path(missing[0]).name}: run mgh-ds encode again"
            )
        return vectors

    def path(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}.npy"

    def rows(self, part: int) -> range:
        """The numbers of the texts of a part."""
        first = part * self.manifest.part_rows
        return range(first, min(first + self.manifest.part_rows, self.manifest.count))

    def is_done(self, part: int) -> bool:
        """Whether a part is complete. Raises MghError, naming it, if it is damaged or of other vectors."""
        label = self.path(part).with_suffix(".json")
        if not label.exists():
            return False
        found = files.read_json(label)
        if not isinstance(found, dict) or found.get("of") != self._fingerprint:
            raise MghError(f"{label} belongs to vectors of another corpus or model: remove it")
        try:
            whole = checksum(self.path(part)) == found.get("sha256")
        except OSError:
            whole = False
        if not whole:
            raise MghError(f"{self.path(part)} is missing or damaged: remove {label}, and it is made anew")
        return True

    def write(self, part: int, ids: Sequence[str], vectors: npt.NDArray[np.float32]) -> None:
        """Writes a part; `vectors` [rows, dimensions] are stored as the manifest's dtype."""
        stored = vectors.astype(self.manifest.dtype)
        assert stored.shape == (len(self.rows(part)), self.manifest.dimensions) == (len(ids), stored.shape[1])
        path = self.path(part)
        with files.new_file(path) as file:
            np.save(file, stored, allow_pickle=False)
        label = {"of": self._fingerprint, "sha256": files.sha256(path), "ids": list(ids)}
        files.write_json(path.with_suffix(".json"), label)

    def read(self, part: int) -> Floats:
        """[rows, dimensions] of a part, in the dtype that they are stored in."""
        return np.load(self.path(part), allow_pickle=False)

    def ids(self, part: int) -> list[str]:
        return files.read_json(self.path(part).with_suffix(".json"))["ids"]

    def take(self, rows: npt.NDArray[np.int64]) -> Floats:
        """[len(rows), dimensions]: the vectors of these texts, from a map of the parts that hold them."""
        found = np.empty((len(rows), self.manifest.dimensions), self.manifest.dtype)
        owner = rows // self.manifest.part_rows
        for part in np.unique(owner).tolist():
            mine = owner == part
            mapped = np.load(self.path(part), mmap_mode="r", allow_pickle=False)
            found[mine] = mapped[rows[mine] - part * self.manifest.part_rows]
        return found

    def __iter__(self) -> Iterator[tuple[int, Floats]]:
        """First row and vectors of each part, in order; memory holds one."""
        for part in range(self.parts):
            yield self.rows(part).start, self.read(part)


def _read_manifest(path: Path) -> Manifest:
    content = files.read_json(path)
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise MghError(f"{path} is no manifest of vectors: {first['loc']}: {first['msg']}") from None
