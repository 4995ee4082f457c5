"""A contender of `benchmarks.serving`: embeds the same texts in each turn. In the first, which does not
count, its model is loaded and its engine started.

python -m benchmarks.serving_worker JOB GATE
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gate import Gate

Embed = Callable[[list[str]], NDArray[np.float32]]


def encoder(job: dict[str, Any]) -> Embed:
    """`Encoder`, with the export that is served."""
    from mgh_ds.model.encoder import Encoder

    model = Encoder.from_pretrained(job["exports"]["ata"], device="cpu")
    return lambda texts: model.encode(texts, batch_size=job["batch_size"])


def served(job: dict[str, Any]) -> Embed:
    """The same export in vLLM."""
    return _in_vllm(job["exports"]["ata"], job)


def stock(job: dict[str, Any]) -> Embed:
    """The same weights with plain mean pooling in vLLM's own model of the family."""
    folder = job["exports"]["mean"]
    described = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    return _in_vllm(folder, job, hf_overrides={"architectures": described["architectures"][1:]})


def _in_vllm(folder: str, job: dict[str, Any], **options: Any) -> Embed:
    import vllm

    llm = vllm.LLM(
        folder,
        runner="pooling",
        dtype="float32",
        gpu_memory_utilization=job["memory_share"],
        distributed_executor_backend="uni",
        **options,
    )
    cut = {"truncate_prompt_tokens": -1}

    def embed(texts: list[str]) -> NDArray[np.float32]:
        found = llm.embed(texts, use_tqdm=False, tokenization_kwargs=cut)
        return np.array([one.outputs.embedding for one in found], dtype=np.float32)

    return embed


def main(job_file: str, descriptor: str) -> None:
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    gate = Gate(int(descriptor), job["rounds"])
    embed = {"encoder": encoder, "served": served, "stock": stock}[job["contender"]](job)
    lines = Path(job["corpus"]).read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    output = Path(job_file).parent / "vectors.npy"
    for _ in range(job["rounds"]):
        vectors = embed(texts)
        gate.stop({})
    np.save(output, vectors)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
    os._exit(0)  # left to itself vLLM takes its time
