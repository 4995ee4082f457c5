"""vLLM in a process of its own, which embeds texts and says what it refuses.

    python -m tests.system.vllm_embeddings JOB

Everything is in this one process, and one engine follows another: its imports cost more than all texts.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
"""Of a test's environment: nothing is asked for or told elsewhere."""
ENVIRONMENT = QUIET | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
OPTIONS: dict[str, Any] = {
    "runner": "pooling",
    "max_num_seqs": 32,
    "distributed_executor_backend": "uni",
}

INSTRUCTION = "Retrieve the passage that answers."
LEAST_COSINE = {"float32": 0.9999, "bfloat16": 0.999}
WORDS = "the harbour master keeps a list, of 12 boats; why? Überall Licht. and thermostat heats no longer"


def texts_of_all_lengths(count: int, longest: int) -> list[str]:
    """From one word to `longest` of them, which is more than the model takes, in no order."""
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS.split(), k=int(longest ** draw.random()))) for _ in range(count)]


def part(export: Path, dtype: str, texts: list[str], output: Path) -> dict[str, Any]:
    """Of a job, an export's texts and the file for the vectors."""
    return {"folder": str(export), "dtype": dtype, "texts": texts, "output": str(output)}


def run_job(
    folder: Path, embed: list[dict[str, Any]], refuse: list[tuple[str, dict[str, Any]]] | None = None
) -> tuple[list[NDArray[np.float32]], list[str]]:
    """The vectors of each part of `embed`, and what is said of each of `refuse`. `folder` is for files."""
    (folder / "job.json").write_text(json.dumps({"embed": embed, "refuse": refuse or []}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tests.system.vllm_embeddings", str(folder / "job.json")],
        env=os.environ | ENVIRONMENT | {"VLLM_CACHE_ROOT": str(folder / "cache")},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    refused = json.loads((folder / "job.refused").read_text(encoding="utf-8"))
    return [np.load(each["output"]) for each in embed], refused


def main(path: Path) -> None:
    """Runs the `embed` parts of a job, which name a folder, a dtype, texts and a file for the vectors, then
    asks for what its `refuse` parts name, folder and options, and writes the answers beside the job."""
    import vllm

    job = json.loads(path.read_text(encoding="utf-8"))
    refused = [_refusal(vllm, folder, options) for folder, options in job["refuse"]]
    path.with_suffix(".refused").write_text(json.dumps(refused), encoding="utf-8")
    for part in job["embed"]:
        llm = vllm.LLM(part["folder"], dtype=part["dtype"], **OPTIONS)
        cut = {"truncate_prompt_tokens": -1}
        found = llm.embed(part["texts"], use_tqdm=False, tokenization_kwargs=cut)
        np.save(part["output"], np.array([one.outputs.embedding for one in found], dtype=np.float32))
        del llm


def _refusal(vllm: Any, folder: str, options: dict[str, Any]) -> str:
    try:
        vllm.EngineArgs(model=folder, **OPTIONS | options).create_engine_config()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


if __name__ == "__main__":
    os.environ |= ENVIRONMENT
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # left to itself vLLM takes its time
