"""A synthesis with vLLM itself, its engine and its worker killed with SIGKILL in the middle of a batch."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from mgh_ds.cli import main as cli
from mgh_ds.model.weights import SMOLLM2, TINY, resolve_model
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.store import Store
from mgh_ds.synthesis.schemas import LEVEL_OF
from tests.system.smollm2 import needs_smollm2
from tests.system.vllm_marks import ENGINES

pytestmark = [*ENGINES, pytest.mark.timeout(1500)]


class Worker:
    """`mgh-ds synth run DIR --all` as a process."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = (folder.parent / "worker.log").open("a+")
        command = [sys.executable, "-m", "mgh_ds.cli", "synth", "run", str(folder), "--all"]
        self.process = psutil.Popen(command, stderr=self.log, stdout=self.log)

    def wait_for(self, condition: Callable[[], object]) -> None:
        until = time.monotonic() + 600
        while not condition():
            assert time.monotonic() < until, self.said()
            assert self.process.poll() is None, self.said()
            time.sleep(0.1)

    def engine(self) -> list[psutil.Process]:
        return self.process.children(recursive=True)

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()


def in_the_middle(folder: Path) -> Callable[[], object]:
    """Whether stage 2 has answers that are not in a part yet."""
    return lambda: any(path.stat().st_size for path in folder.glob("work/samples/*/chunk-*.journal"))


@dataclass(frozen=True)
class Writer:
    """A model, what is changed of the demo's recipe for it, and the least records that it must yield."""

    model: str
    changes: tuple[str, ...]
    records: int


# Random weights write quickly, and nothing that is refused. SmolLM2 is slower, and much of it is.
FEW = "--chunk 4 --tasks.calls 2 --tasks.sampling.max_tokens 320 --samples.budget.samples 8"
WRITERS = [
    pytest.param(Writer("tiny-random/chat", (), 40), id="random"),
    pytest.param(
        Writer(SMOLLM2, (*FEW.split(), "--samples.sampling.max_tokens", "384"), 6),
        id="smollm2",
        marks=needs_smollm2,
    ),
]


@pytest.mark.parametrize("writer", WRITERS)
def test_killed_in_the_middle_of_a_batch_it_goes_on_and_merges(tmp_path: Path, writer: Writer) -> None:
    plan = tmp_path / "plan"
    model = str(resolve_model(writer.model)) if writer.model.startswith(TINY) else writer.model
    recipe = ["--config", "configs/synth-demo.yaml", "--engine.model", model, *writer.changes]
    cli(["synth", "plan", *recipe, "--output", str(plan)])

    worker = Worker(plan)
    worker.wait_for(in_the_middle(plan))
    core = next(process for process in worker.engine() if "EngineCore" in " ".join(process.cmdline()))
    core.kill()
    worker.wait_for(lambda: "starting it again" in worker.said())
    parts = len(list(plan.glob("work/samples/*/part-*")))
    worker.wait_for(lambda: len(list(plan.glob("work/samples/*/part-*"))) > parts and in_the_middle(plan)())

    orphans = worker.engine()
    assert orphans
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    _, alive = psutil.wait_procs(orphans, timeout=20)
    assert not alive, "vLLM outlived its worker"

    command = [sys.executable, "-m", "mgh_ds.cli", "synth", "run", str(plan), "--all"]
    subprocess.run(command, check=True, timeout=900)
    cli(["synth", "merge", str(plan)])
    cli(["data", "validate", str(plan / "merged")])

    units = pq.read_table(plan / "merged" / "units.parquet").to_pylist()
    assert len({row["unit_id"] for row in units}) == len(units)
    finished = [row for row in units if row["finish_reason"] == "stop"]
    assert len(finished) >= writer.records
    for row in finished:
        answer = json.loads(row["text"])
        assert list(answer) == ["query", "positive", *LEVEL_OF], "the grammar fixes keys and their order"
        assert all(isinstance(text, str) and text for text in answer.values())
    assert {row["engine"] for row in finished} == {"vllm 0.32.0"}
    assert all(row["tokens_in"] > 0 and row["tokens_out"] > 0 for row in finished)
    store = Store.open(plan / "merged")
    assert len(store) >= writer.records
    assert all({negative.level for negative in record.negatives} == set(LEVELS) for record in store)
    is_noise = "The text is noise" in (plan / "merged" / "README.md").read_text()
    assert is_noise == (writer.model != SMOLLM2)
