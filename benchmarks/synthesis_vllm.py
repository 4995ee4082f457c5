"""Tokens per second through the whole of stage 2 (prompts, vLLM in its own process, journal, filters, parts)
against one bare call of `LLM.chat` with the same prompts, model, schema and limits.

Both sides have an engine of their own with the same settings, started before any clock. They take turns, in
every other round in reverse order. The bare side is handed all prompts at once and keeps nothing on disk.
"""

import itertools
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from mgh_ds.common.errors import MghError
from mgh_ds.model.weights import resolve_model
from mgh_ds.synthesis.config import EngineConfig
from mgh_ds.synthesis.engines.opening import open_engine
from mgh_ds.synthesis.engines.port import Request
from mgh_ds.synthesis.engines.vllm_child import llm_arguments, sampling_params
from mgh_ds.synthesis.plan import SynthesisPlan, freeze_plan, open_plan
from mgh_ds.synthesis.prepare import Preparer
from mgh_ds.synthesis.progress import WorkerProgress
from mgh_ds.synthesis.status import read_status
from mgh_ds.synthesis.supervisor import EngineSupervisor
from mgh_ds.synthesis.tasks import freeze_tasks, open_tasks
from mgh_ds.synthesis.units import units_of_shard
from mgh_ds.synthesis.worker import StageRun

RECIPE = "configs/synth-demo.yaml"
MODEL = "tiny-random/chat"
SIDES = ("bare", "pipeline")
SETTINGS: dict[str, object] = {
    "shards": 1,
    "chunk": 64,
    "engine.max_in_flight": 512,
    "engine.vllm.dtype": "float32",
    "engine.vllm.max_num_seqs": 64,
    "engine.vllm.kv_cache_gib": 0.5,
    "tasks.calls": 8,
    "samples.max_rounds": 1,
    "samples.sampling.max_tokens": 600,
}
ABOUT = (
    "The whole of stage 2 (prompts, vLLM in a process of its own, journal, filters, parts) against one bare "
    "call of `LLM.chat` that gets all prompts at once and keeps nothing. {units} prompts, {rounds} rounds "
    "in which both have their turn; the same model with random weights, schema, limits and engine settings; "
    "the engines' start counts on neither side. Tokens/s of the pipeline over the bare call's, round by "
    "round: **median {median:.3f}, range {least:.3f} to {most:.3f}**."
)


class Turn(NamedTuple):
    """What one side wrote in one round."""

    round: int
    side: str
    units: int
    tokens_out: int
    seconds: float
    tokens_per_s: float


class Found(NamedTuple):
    """All turns, and what is to be said of them."""

    about: str
    versions: dict[str, str]
    rows: list[Turn]


def compare(folder: Path, units: int, rounds: int) -> Found:
    """Lets both sides answer the same `units` prompts `rounds` times. Raises MghError without vLLM."""
    plan = freeze_plan(arguments(units), folder / "plan")
    engine = plan.config.engine
    supervisor = EngineSupervisor(partial(open_engine, engine, folder / "vllm.log"), engine.start_s)
    bare = ProcessPoolExecutor(1, get_context("spawn"), _open_bare, (engine, folder / "cache"))
    try:
        bare.submit(int)  # its engine starts beside ours
        StageRun(plan, "tasks", plan.plan_hash, {}, supervisor, WorkerProgress(plan)).work([0])
        freeze_tasks(plan)
        probes, requests = requests_of(plan, units)
        engine_at_start = supervisor.ready(probes)
        bare.submit(_write_bare, requests[:8]).result()
        turns = []
        for number in range(rounds):
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                if side == "bare":
                    tokens, seconds = bare.submit(_write_bare, requests).result()
                else:
                    tokens, seconds = write_stage(plan, folder / f"round-{number}", supervisor)
                turns.append(Turn(number, side, units, tokens, seconds, tokens / seconds))
                print(*turns[-1], file=sys.stderr, flush=True)
                if supervisor.ready(probes) is not engine_at_start:
                    raise MghError("vLLM died and was started again meanwhile: measure anew")
    finally:
        supervisor.close()
        bare.submit(_close_bare).result()
        bare.shutdown()
    return Found(describe(turns), {"engine": engine_at_start.version, "model": MODEL}, turns)


def arguments(units: int) -> list[str]:
    """The recipe and what differs here."""
    goal = {"engine.model": resolve_model(MODEL), "samples.budget.samples": units}
    return ["--config", RECIPE, *(f"--{key}={value}" for key, value in (SETTINGS | goal).items())]


def requests_of(plan: SynthesisPlan, units: int) -> tuple[list[Request], list[Request]]:
    """A probe of stage 2, and what the pipeline will ask: the first units of its only shard."""
    scope, tasks = open_tasks(plan)
    preparer = Preparer(plan, "samples", tasks)
    stream = itertools.islice(units_of_shard(scope, "samples", list(tasks), 0, 1), units)
    return preparer.probes[:1], [preparer.prepare(unit).request for unit in stream]


def write_stage(plan: SynthesisPlan, folder: Path, supervisor: EngineSupervisor) -> tuple[int, float]:
    """Stage 2 in a copy of the plan: tokens written, and seconds from the first prompt to the last part."""
    shutil.copytree(plan.folder, folder, ignore=shutil.ignore_patterns("work"))
    copy = open_plan(folder)
    started = time.perf_counter()
    StageRun(copy, "samples", *open_tasks(copy), supervisor, WorkerProgress(copy)).work([0])
    seconds = time.perf_counter() - started
    return read_status(copy)["samples"].counts.tokens_out, seconds


def describe(turns: Sequence[Turn]) -> str:
    """What the turns show, as a paragraph."""
    rates = {(turn.round, turn.side): turn.tokens_per_s for turn in turns}
    rounds = sorted({turn.round for turn in turns})
    ratios = [rates[number, "pipeline"] / rates[number, "bare"] for number in rounds]
    return ABOUT.format(
        units=turns[0].units,
        rounds=len(rounds),
        median=statistics.median(ratios),
        least=min(ratios),
        most=max(ratios),
    )


_llm: Any = None  # of the bare side's process


def _open_bare(config: EngineConfig, cache: Path) -> None:
    global _llm
    os.environ |= {
        "VLLM_CACHE_ROOT": str(cache),
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    import vllm

    _llm = vllm.LLM(**llm_arguments(config.model_dump()))


def _write_bare(requests: Sequence[Request]) -> tuple[int, float]:
    """Tokens written and seconds, for all requests in one call."""
    first = requests[0]
    params = sampling_params(json.dumps(first.schema), first.sampling)
    started = time.perf_counter()
    outputs = _llm.chat([request.messages for request in requests], params, use_tqdm=False)
    seconds = time.perf_counter() - started
    return sum(len(output.outputs[0].token_ids) for output in outputs), seconds


def _close_bare() -> None:
    # Left to itself vLLM keeps its processes, and they this one, for ever.
    _llm.llm_engine.engine_core.shutdown()
