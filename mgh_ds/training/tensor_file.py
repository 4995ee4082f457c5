"""Files of float32 tensors in the safetensors format, written and read a tensor at a time.

The library writes a file from all of its tensors at once. The format does not ask for that: a header with
names, shapes and places, then the tensors' bytes. Whoever knows the shapes can write the header first, and
each tensor when it comes.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open

from mgh_ds.common.errors import MghError

FLOAT32 = "F32"  # the format's name for it
ALIGNMENT = 8  # bytes; the data begins at a multiple of them


@dataclass(frozen=True)
class LazyTensors:
    """float32 tensors by name, in the order of `shapes`; none need be in memory before it is read.

    Attributes:
        shapes: of all of them.
        read: the tensor of a name, on the CPU and contiguous.
    """

    shapes: dict[str, torch.Size]
    read: Callable[[str], torch.Tensor]


def write_file(path: Path, shapes: Mapping[str, torch.Size], take: Callable[[], torch.Tensor]) -> str:
    """Writes the tensors that `take` gives, one for each of `shapes` and in their order; returns the file's
    SHA-256. Only the one that is being written is in memory."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        _append(file, digest, _header(shapes))
        for name, shape in shapes.items():
            tensor = take()
            if tensor.shape != shape or tensor.dtype != torch.float32:
                raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, not float32 {list(shape)}")
            _append(file, digest, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            del tensor  # while the next one is made
    return digest.hexdigest()


def open_file(path: Path) -> LazyTensors:
    """The tensors of a file, of which only the header is read at first.

    Raises MghError for a file that is none, or one that holds anything but float32.
    """
    try:
        # Mapped into memory, a failing disk would end the process, and pages would count as its own.
        file = safe_open(path, "pt", backend="pread")
    except SafetensorError as error:
        raise MghError(f"{path} holds no tensors: {error}") from None
    parts = {name: file.get_slice(name) for name in file.offset_keys()}
    for name, part in parts.items():
        if part.get_dtype() != FLOAT32:
            raise MghError(f"{path}: {name} is {part.get_dtype()}; a checkpoint holds {FLOAT32} alone")
    return LazyTensors({name: torch.Size(part.get_shape()) for name, part in parts.items()}, file.get_tensor)


def _header(shapes: Mapping[str, torch.Size]) -> bytes:
    """Length of what follows (8 bytes, little-endian), then JSON filled up with blanks."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + shape.numel() * torch.float32.itemsize
        entries[name] = {"dtype": FLOAT32, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _append(file: BinaryIO, digest: "hashlib._Hash", data: bytes | memoryview) -> None:
    file.write(data)
    digest.update(data)
