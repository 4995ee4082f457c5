"""vLLM in a process of its own, which embeds texts and says what it refuses.

    python -m tests.system.vllm_embeddings JOB

Everything is in this one process, and one engine follows another: a start costs more than all texts.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
OPTIONS: dict[str, Any] = {
    "runner": "pooling",
    "max_num_seqs": 32,
    "gpu_memory_utilization": 0.2,
    "distributed_executor_backend": "uni",
}


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
