"""What synthesis costs beside the model that writes the text: time, memory, and tokens per second lost.

    python -m benchmarks.synthesis overhead     # 20,000 units of the scripted engine: units/s, step by step
    python -m benchmarks.synthesis memory       # 1,000,000 units: the most memory that a command takes
    python -m benchmarks.synthesis vllm         # tokens/s against a bare call of LLM.chat; needs vLLM

`overhead` and `memory` give the commands that a user would give, as processes of their own. In `vllm` a model
with random weights writes: the less the model costs, the more ours shows. Each writes
`synthesis-<part>.csv` and `.md`.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import environment, table
from benchmarks.kernel import RESULTS
from benchmarks.synthesis_vllm import Turn, compare
from mgh_ds.common import files
from mgh_ds.common.score_tables import markdown_table
from mgh_ds.synthesis.engines.port import Completion
from mgh_ds.synthesis.engines.scripted import ScriptedEngine
from mgh_ds.synthesis.plan import SynthesisPlan, freeze_plan
from mgh_ds.synthesis.shard_run import ShardRun
from mgh_ds.synthesis.tasks import freeze_tasks, open_tasks
from mgh_ds.synthesis.units import SynthesisStage, Task

RECIPE = "configs/synth-scripted.yaml"
TASK_CALLS = 400
BATCH = 256
MACHINE = ("date", "device", "cores", "load", "python")
PACKAGES = ("pyarrow", "pydantic", "jinja2")


class Row(NamedTuple):
    """One measurement.

    Attributes:
        what: a command, from its start to its end; or a step of a worker's, summed over all units.
        units: LLM calls of stage 2; of stage 1 where `what` says so.
        seconds: by the clock on the wall.
        units_per_s: `units` / `seconds`.
        peak_mib: the most resident memory of the process, with its libraries.
    """

    what: str
    units: int
    seconds: float
    units_per_s: float
    peak_mib: float | None = None


COMMANDS = (
    "One worker with the scripted engine instead of a model. Of a command the time counts from its start to "
    "its end, imports included; the peak is the most resident memory of the process, its libraries included. "
    f"Before stage 2 come {TASK_CALLS} calls of stage 1. All answers are good."
)
STEPS = (
    " The steps are measured in one process: `prompts` are units, slots and rendered templates; `script` is "
    "the engine, which a real one replaces; `answers` are journal, filters and parts."
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="synthesis.", dir=options.folder) as name:
        folder = Path(name)
        output = options.output / f"synthesis-{options.part}"
        if options.part == "vllm":
            found = compare(folder, options.units or 384, options.rounds)
            publish(output, "Synthesis with vLLM", found.about, versions() | found.versions, found.rows)
        else:
            units = options.units or (20_000 if options.part == "overhead" else 1_000_000)
            rows = measure_commands(folder / "commands", units)
            if options.part == "overhead":
                rows += measure_steps(folder / "steps", units)
            about = COMMANDS + (STEPS if options.part == "overhead" else "")
            publish(output, f"Synthesis without a model: {options.part}", about, versions(), rows)
    return 0


def measure_commands(folder: Path, units: int) -> list[Row]:
    """`run` and `merge` of a new plan in `folder`, as a user gives them."""
    freeze(folder, units)
    rows = []
    for verb, rest in (("run", ["--all"]), ("merge", [])):
        command = [sys.executable, "-m", "mgh_ds.cli", "synth", verb, str(folder), *rest]
        seconds, peak_mib = watch(command)
        rows.append(Row(f"mgh-ds synth {verb}", units, seconds, units / seconds, peak_mib))
    both = sum(row.seconds for row in rows)
    return [*rows, Row("both", units, both, units / both)]


def measure_steps(folder: Path, units: int) -> list[Row]:
    """Where a worker's time goes: both stages of a plan of one shard, step by step, in this process."""
    plan = freeze(folder, units, "--shards", "1")
    rows = time_stage(plan, "tasks", plan.plan_hash, {})
    freeze_tasks(plan)
    return rows + time_stage(plan, "samples", *open_tasks(plan))


def time_stage(
    plan: SynthesisPlan, stage: SynthesisStage, scope: str, tasks: Mapping[str, Task]
) -> list[Row]:
    """The time that a stage spends on prompts, on the script and on answers."""
    seconds = dict.fromkeys(("prompts", "script", "answers"), 0.0)

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[step] += time.perf_counter() - started

    engine = ScriptedEngine(plan.config.engine)
    shard = ShardRun(plan, stage, scope, dict(tasks), 0)
    while not shard.done:
        with timed("prompts"):
            taken = shard.take(BATCH)
        with timed("script"):
            engine.submit([prepared.request for prepared in taken])
            completions: list[Completion] = []
            while len(completions) < len(taken):
                completions += engine.poll(1.0)
        with timed("answers"):
            shard.finish(completions, engine.version)
    shard.close()
    units = shard.counts.units
    return [Row(f"stage {stage}: {step}", units, taken, units / taken) for step, taken in seconds.items()]


def freeze(folder: Path, units: int, *settings: str) -> SynthesisPlan:
    """A plan with `units` units in stage 2: no answer is bad on purpose, and there is no second round."""
    goal = ["--tasks.calls", str(TASK_CALLS), "--samples.budget.samples", str(units)]
    fixed = ["--engine.scripted.invalid", "0", "--samples.max_rounds", "1"]
    return freeze_plan(["--config", RECIPE, *goal, *fixed, *settings], folder)


def watch(command: Sequence[str]) -> tuple[float, float]:
    """Runs a command: the seconds that it took and the most memory that it had, in MiB. Linux only.

    Raises CalledProcessError if it fails.
    """
    started = time.perf_counter()
    peak_kib = 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            # Not getrusage: that would count what this process held when it started the other.
            peak_kib = max(peak_kib, _peak_kib(process.pid))
            time.sleep(0.02)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - started, peak_kib / 1024


def _peak_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    # A process that has ended but was not waited for has no memory any more.
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def versions() -> dict[str, str]:
    """What the measurement was made with."""
    found = environment.describe(torch.device("cpu"))
    return {name: found[name] for name in MACHINE} | {name: environment.version(name) for name in PACKAGES}


def publish(
    path: Path, title: str, about: str, described: Mapping[str, str], rows: Sequence[Row] | Sequence[Turn]
) -> None:
    """Writes `path` with the endings csv and md; one row a line."""
    columns = rows[0]._fields
    csv_file, md_file = (path.with_name(f"{path.name}.{kind}") for kind in ("csv", "md"))
    table.write(csv_file, described, columns, rows)
    written = table.read(csv_file)[1]
    parts = [
        f"# {title}",
        about,
        markdown_table(("", ""), described.items(), text_columns=2),
        markdown_table([name.replace("_", " ") for name in columns], [list(row.values()) for row in written]),
    ]
    files.write_text(md_file, "\n\n".join(parts) + "\n")
    print(md_file.read_text(encoding="utf-8"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.synthesis", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("part", choices=("overhead", "memory", "vllm"))
    parser.add_argument("--units", type=int, help="calls of stage 2 (default: 20,000, 1,000,000 or 384)")
    parser.add_argument("--rounds", type=int, default=6, help="of vllm, in which both sides have their turn")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where plans are put for a while")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
