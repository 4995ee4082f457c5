"""vLLM's process, the real loop around a batch that does as its prompts say, for tests of `VllmEngine`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.engines import vllm_child
from mgh_ds.synthesis.engines.port import Completion, Request


class FakeBatch:
    version = "vllm fake"

    def __init__(self, config: dict[str, Any]) -> None:
        folder = Path(config["model"])
        # What vLLM does too: processes of its own that know nothing of ours.
        sleeper = subprocess.Popen(["sleep", "1000"])
        (folder / "pids").write_text(f"{os.getpid()} {sleeper.pid}")
        (folder / "cache").write_text(os.environ["VLLM_CACHE_ROOT"])
        how = (folder / "how").read_text() if (folder / "how").exists() else ""
        if how == "raise":
            print("(EngineCore pid=1) ERROR [core.py] torch.OutOfMemoryError: no 80 GiB left", flush=True)
            raise RuntimeError("Engine core initialization failed. See root cause above.")
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "slow":
            time.sleep(1000)
        self._requests: list[Request] = []

    @property
    def busy(self) -> bool:
        return bool(self._requests)

    def add(self, request: Request) -> Completion | None:
        if request.messages[0]["content"] == "refuse":
            return Completion(request.unit_id, "", "refused", 0, 0, error="too long")
        if request.messages[0]["content"] == "schema":
            raise MghError("the schema is refused")
        self._requests.append(request)
        return None

    def step(self) -> list[Completion]:
        request = self._requests.pop(0)
        words = request.messages[0]["content"].split()
        if words[0] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif words[0] == "raise":
            raise RuntimeError("EngineCore encountered an issue")
        elif words[0] == "hang":
            time.sleep(1000)
        elif words[0] == "steps" and words[1] != "0":  # so many steps before it is finished
            time.sleep(0.05)
            request.messages[0]["content"] = f"steps {int(words[1]) - 1}"
            self._requests.append(request)
            return []
        return [Completion(request.unit_id, words[0], "stop", len(words), 1)]


if __name__ == "__main__":
    vllm_child.Batch = FakeBatch  # type: ignore[assignment, misc]
    vllm_child.main(int(sys.argv[1]))
