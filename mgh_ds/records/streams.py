"""Other people's files as streams of UTF-8: what gzip, bzip2, xz or zstd packed is unpacked, UTF-16 and
UTF-32 are recoded, a byte order mark goes. What is none of these is refused by what its first bytes say."""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from mgh_ds.common.errors import MghError

Progress = Callable[[int], object]  # called with the number of bytes read since the last call

BLOCK = 2**18  # bytes read at once
HEAD = 64  # bytes that a file is known by
GZIP, BZIP2, XZ, ZSTD = b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0", b"(\xb5/\xfd"
LFS_POINTER = b"version https://git-lfs"
WITHOUT_MARK = "is UTF-16 without a byte order mark: save it as UTF-8"

PACKERS: dict[bytes, Callable[[Any], Any]] = {
    GZIP: lambda file: gzip.GzipFile(fileobj=file),
    BZIP2: bz2.BZ2File,
    XZ: lzma.LZMAFile,
    ZSTD: lambda file: pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"),
}
"""The first bytes of a packed file, and what unpacks it as it is read."""

FOREIGN = {
    **dict.fromkeys(PACKERS, "is packed more than once: unpack it first"),
    b"PK\x03\x04": "is a ZIP archive or a spreadsheet: unpack it, or save it as CSV",
    b"PAR1": "is a Parquet file: name it *.parquet",
    b"ARROW1": "is an Arrow file: name it *.arrow",
    LFS_POINTER: "is a pointer of Git LFS, not the data: get these with git lfs pull",
    b"{\0": WITHOUT_MARK,
    b"\0{": WITHOUT_MARK,
    b"[\0": WITHOUT_MARK,
    b"\0[": WITHOUT_MARK,
}
"""The first bytes of what cannot be read as text, and what to do about it."""

MARKS = {  # UTF-32's comes before UTF-16's, which is how it begins
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@contextmanager
def open_utf8(path: Path, progress: Progress | None = None) -> Iterator["io.BufferedReader[Any]"]:
    """The file's text in UTF-8, which may still hold bytes that are none, as it may in the file.

    `progress` is told of the bytes of the file itself. Raises MghError for a file of another kind and for one
    that is damaged or cut short, then or while it is read.
    """
    with path.open("rb", buffering=0) as file:
        told: Any = _Told(file, progress or (lambda _: None))
        source: io.BufferedReader[Any] = io.BufferedReader(told, BLOCK)
        try:
            head = source.peek(HEAD)
            unpack = next((unpack for mark, unpack in PACKERS.items() if head.startswith(mark)), None)
            if unpack:
                source = io.BufferedReader(unpack(source), BLOCK)
            head = source.peek(HEAD)
            for beginning, cause in FOREIGN.items():
                if head.startswith(beginning):
                    raise MghError(f"{path} {cause}")
            encoding = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
            if encoding:
                source = io.BufferedReader(_Recoded(path, source, encoding), BLOCK)
            elif head.startswith(codecs.BOM_UTF8):
                source.read(len(codecs.BOM_UTF8))
            yield source
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the machine's, where a packer's own has no number
            raise MghError(f"{path} is damaged or cut short: {error}. Fetch it again.") from None


class _Told(io.RawIOBase):
    """A file of whose reading `progress` is told."""

    def __init__(self, file: io.FileIO, progress: Progress) -> None:
        self._file, self._progress = file, progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self._progress(count)
        return count


class _Recoded(io.RawIOBase):
    """A stream of another encoding as UTF-8. Lone surrogates become bytes that are no UTF-8, so that the row
    which has them is refused and not the file."""

    def __init__(self, path: Path, file: BinaryIO, encoding: str) -> None:
        self._path, self._file, self._encoding = path, file, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        self._left = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left and not self._ended:
            piece = self._file.read(BLOCK)
            self._ended = not piece
            try:
                text = self._decoder.decode(piece, final=self._ended)
            except UnicodeDecodeError as error:
                name = self._encoding.upper()
                raise MghError(f"{self._path} is not whole {name}: {error.reason}. Fetch it again.") from None
            self._left = text.encode("utf-8", "surrogatepass")
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count
