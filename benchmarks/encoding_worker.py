"""A contender of `benchmarks.encoding`: encodes the same corpus once a turn, and says how long that took.

python -m benchmarks.encoding_worker JOB GATE
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.gate import take_part


def ours(job: dict[str, Any], folder: Path) -> list[str]:
    """`mgh-ds encode` from its beginning. The files that hold the vectors, in order."""
    from mgh_ds.encoding.commands import encode_command

    output = folder / "vectors"
    shutil.rmtree(output, ignore_errors=True)
    encode_command(
        Path(job["corpus"]), output, model=job["model"], batch_size=job["batch_size"], device="cpu"
    )
    return sorted(map(str, output.glob("part-*.npy")))


def theirs(job: dict[str, Any], folder: Path) -> list[str]:
    """`encode` of sentence-transformers, its model loaded and its vectors written anew in every turn."""
    import numpy as np
    from sentence_transformers import SentenceTransformer

    lines = Path(job["corpus"]).read_text(encoding="utf-8").splitlines()
    model = SentenceTransformer(job["model"], device="cpu")
    vectors = model.encode(
        [json.loads(line)["text"] for line in lines],
        batch_size=job["batch_size"],
        normalize_embeddings=True,
        show_progress_bar=False,
    )
    np.save(folder / "vectors.npy", vectors)
    return [str(folder / "vectors.npy")]


if __name__ == "__main__":
    take_part(sys.argv[1], sys.argv[2], {"ours": ours, "theirs": theirs}, "files")
