"""The work of one worker: texts of its parts to vectors on disk."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mgh_ds.common.claims import made, until_none_left
from mgh_ds.distributed.workers import Worker
from mgh_ds.encoding.settings import EncodingSettings
from mgh_ds.encoding.texts import Survey, Text, in_parts
from mgh_ds.encoding.vectors import PART_ROWS, Manifest, Vectors
from mgh_ds.model.encoder import Encoder
from mgh_ds.records.instructions import Side


def describe(
    encoder: Encoder,
    settings: EncodingSettings,
    found: Survey,
    side: Side,
    instruction: str | None,
    named: dict[str, Any],
    part_rows: int = PART_ROWS,
) -> Manifest:
    """The manifest of the vectors that `encoder` makes of the texts `found`. `encoder.origin` must hold the
    model's fingerprint as `weights`."""
    return Manifest(
        model=encoder.origin["weights"],
        options={
            "pooling": encoder.pooling,
            "max_length": encoder.max_length,
            "precision": str(encoder.model.backbone.dtype).removeprefix("torch."),
        },
        side=side,
        instruction=instruction,
        prompt=encoder.prompt,
        dtype=settings.dtype,
        dimensions=encoder.dim,
        count=found.count,
        sha256=found.sha256,
        part_rows=part_rows,
        named={"model": encoder.name, **named},
    )


def encode_parts(
    vectors: Vectors,
    texts: Iterable[Text],
    encoder: Encoder,
    parts: Sequence[int],
    batch_size: int = 64,
    what: str = "encode",
    batch_tokens: int | None = None,
) -> None:
    """Makes those of `parts` that are not done, and waits for those that other processes are making.

    A part is encoded by itself, so that its bits depend on its texts, and on `batch_size` and `batch_tokens`
    (see `Encoder.encode`), but not on who makes the others. Memory holds one part. `texts` must begin anew at
    each iteration, and be those of the manifest.
    """
    encode = partial(encoder.encode, batch_size=batch_size, batch_tokens=batch_tokens)
    left = [part for part in parts if not vectors.is_done(part)]
    total = sum(len(vectors.rows(part)) for part in left)
    with tqdm(total=total, desc=what, unit=" texts", disable=None, leave=False) as bar:

        def make(wanted: set[int]) -> set[int]:
            finished = set()
            for part, group in in_parts(texts, vectors.manifest.part_rows):
                if part not in wanted:
                    continue
                done = partial(vectors.is_done, part)
                work = partial(_make, vectors, part, group, encode, bar.update)
                if made(vectors.folder, vectors.path(part).stem, done, work):
                    finished.add(part)
            return finished

        until_none_left(left, make)


def parts_of(worker: Worker, parts: int) -> range:
    """Those that a worker begins with."""
    return range(worker.number, parts, worker.count)


def _make(
    vectors: Vectors,
    part: int,
    texts: Sequence[Text],
    encode: Callable[..., npt.NDArray[np.float32]],
    progress: Callable[[int], object],
) -> None:
    found = np.empty((len(texts), vectors.manifest.dimensions), np.float32)
    for instruction in dict.fromkeys(text.instruction for text in texts):
        rows = [row for row, text in enumerate(texts) if text.instruction == instruction]
        found[rows] = encode([texts[row].text for row in rows], instruction, progress=progress)
    vectors.write(part, [text.id for text in texts], found)
