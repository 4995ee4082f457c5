"""The time of a training step, of this tree against an earlier revision: the same recipe in turns.

    python -m benchmarks.revisions 4ef4e44                             # 4 ranks on a CPU, over gloo
    python -m benchmarks.revisions 4ef4e44 --training.micro_batch 2    # a key of the recipe, for both

The revision is checked out into a temporary worktree, ata_attention with it. Each round trains both, every
other round this tree first; ratios are formed within a round. A step's time is that from one step's line in
metrics.jsonl to the next, so it holds everything between two steps, whatever the revision counts as a step's
`seconds`; those are reported beside it. Writes `<device>-revisions.json`; says what a GPU would need.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import environment
from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.common.json_lines import JsonLines
from mgh_ds.common.score_tables import markdown_table
from mgh_ds.distributed.group import free_port

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
TRAIN = Path(__file__).with_name("clocked_train.py")
WARM_UP = 5  # steps at the start that do not count: the first shard is written, allocators settle
LIMIT_S = 600  # of a turn

ON_A_GPU = """\
What the same comparison needs on GPUs, where nothing has been measured yet:
  machine   {ranks} NVIDIA GPUs of compute capability 8.0 or more, one a rank, in one machine
  command   python -m benchmarks.revisions {revision} --device cuda --ranks {ranks} --steps 300 \\
                --config demo --model.dtype bfloat16
  look at   the ratio of the steps in the file that it writes, <GPU>-revisions.json; and, for the reason, in
            a trace of rank 0 (nsys profile --trace cuda): how often a step calls cudaStreamSynchronize or
            copies from device to host, and the gaps between its kernels
A step that waits less helps where the device would idle meanwhile: a small model shows it, a large one that
keeps the device busy may not."""


class Tree(NamedTuple):
    """A checkout, and what it holds."""

    path: Path
    commit: str
    changed: bool  # against the commit


class Turn(NamedTuple):
    """Of one run, the steps after the warm-up: seconds from line to line, and those that the lines state."""

    periods: list[float]
    stated: list[float]


def main(arguments: Sequence[str] | None = None) -> int:
    options, settings = _parser().parse_known_args(arguments)
    with worktree(options.revision) as before, tempfile.TemporaryDirectory(prefix="revisions.") as folder:
        trees = {"before": before, "after": Tree(ROOT, commit(ROOT), is_changed(ROOT))}
        for tree in trees.values():
            check_imports(tree.path)
        rounds = take_turns(trees, options, settings, Path(folder))
    device = torch.device(options.device)
    found = {
        "environment": environment.describe(device),
        "recipe": options.config,
        "settings": settings,
        "ranks": options.ranks,
        "steps": options.steps,
        "warm_up": WARM_UP,
        **{name: {"commit": tree.commit, "changed": tree.changed} for name, tree in trees.items()},
        **summary(rounds),
    }
    path = options.output / f"{environment.file_name(device)}-revisions.json"
    files.write_json(path, found)
    print(table(found))
    if options.device == "cpu":
        print(advice(options))
    return 0


@contextlib.contextmanager
def worktree(revision: str) -> Iterator[Tree]:
    """The revision in a temporary worktree of this repository. Raises MghError if there is none such."""
    found = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", check=False)
    if not found:
        raise MghError(f"{revision} is no revision of this repository: git log --oneline lists them")
    with tempfile.TemporaryDirectory(prefix="revision.") as folder:
        path = Path(folder) / "tree"
        _git("worktree", "add", "--detach", "--quiet", str(path), found)
        try:
            yield Tree(path, found, False)
        finally:
            _git("worktree", "remove", "--force", str(path))


def commit(tree: Path) -> str:
    return _git("-C", str(tree), "rev-parse", "HEAD")


def is_changed(tree: Path) -> bool:
    """Whether a file of the code differs from the commit's."""
    return bool(_git("-C", str(tree), "status", "--porcelain", "--", "mgh_ds", "kernels", "configs"))


def _git(*words: str, check: bool = True) -> str:
    ended = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    if check and ended.returncode:
        raise MghError(f"git {' '.join(words)}: {ended.stderr.strip()}")
    return ended.stdout.strip()


def check_imports(tree: Path) -> None:
    """Raises MghError if a rank would run another tree's code."""
    code = (
        "from importlib.util import find_spec; "
        "print(*(find_spec(name).origin for name in ('ata_attention', 'mgh_ds')), sep='\\n')"
    )
    command = [sys.executable, "-P", "-c", code]
    ended = subprocess.run(
        command, cwd=tree, env=_environment(tree, "cpu"), capture_output=True, text=True, check=True
    )
    for place in ended.stdout.splitlines():
        if not Path(place).is_relative_to(tree):
            raise MghError(f"{place} would be measured, which does not lie in {tree}")


def take_turns(
    trees: dict[str, Tree], options: argparse.Namespace, settings: Sequence[str], folder: Path
) -> list[dict[str, Turn]]:
    """A turn of each tree a round."""
    rounds = []
    with tqdm(total=options.rounds * len(trees), unit="turn") as bar:
        for number in range(options.rounds):
            turns: dict[str, Turn] = {}
            for name in list(trees) if number % 2 == 0 else list(trees)[::-1]:
                bar.set_postfix_str(name)
                run = folder / f"{name}-{number}"
                train(trees[name].path, run, options, settings)
                turns[name] = read_turn(run / "metrics.jsonl")
                bar.update()
            rounds.append(turns)
    return rounds


def train(tree: Path, run: Path, options: argparse.Namespace, settings: Sequence[str]) -> None:
    """Trains on so many ranks, without scores and with one checkpoint at the end.

    Raises MghError with rank 0's last words if a rank fails or the turn takes too long.
    """
    words = {"name": run.name, "folder": str(run.parent), "data.held_out": "null"}
    words |= {"training.steps": str(options.steps), "training.checkpoint_every": str(options.steps)}
    changes = [word for key, value in words.items() for word in (f"--{key}", value)]
    command = [sys.executable, "-P", str(TRAIN), "--config", options.config, *changes, *settings]
    group = {"WORLD_SIZE": str(options.ranks), "LOCAL_SIZE": str(options.ranks)}
    group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared = _environment(tree, options.device) | group
    logs = [run.with_suffix(f".{rank}.log") for rank in range(options.ranks)]
    with contextlib.ExitStack() as stack:
        ranks = [
            stack.enter_context(
                subprocess.Popen(
                    command,
                    cwd=tree,
                    env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdout=stack.enter_context(log.open("w", encoding="utf-8")),
                    stderr=subprocess.STDOUT,
                )
            )
            for rank, log in enumerate(logs)
        ]
        until = time.monotonic() + LIMIT_S
        while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
            if time.monotonic() > until:
                break
            time.sleep(0.2)
        codes = [rank.poll() for rank in ranks]
        for rank in ranks:
            rank.kill()
    if any(codes) or None in codes:
        words_of_rank_0 = logs[0].read_text(encoding="utf-8", errors="replace")[-3000:]
        raise MghError(f"{tree}: ranks ended with {codes}, None being too late:\n{words_of_rank_0}")


def _environment(tree: Path, device: Literal["cpu", "cuda"]) -> dict[str, str]:
    """A rank's: this tree's packages before any that are installed, and one thread."""
    found = os.environ | {"PYTHONPATH": os.pathsep.join([str(tree), str(tree / "kernels")])}
    return found | {"DS_ACCELERATOR": device, "OMP_NUM_THREADS": "1"}


def read_turn(metrics: Path) -> Turn:
    """What `clocked_train` wrote. Raises MghError if there are too few steps."""
    lines = [line for line in JsonLines(metrics).entries() if line["kind"] == "step"]
    if len(lines) < WARM_UP + 2:
        raise MghError(f"{metrics} has {len(lines)} steps: {WARM_UP + 2} are needed at least")
    moments = [line["moment"] for line in lines]
    periods = [later - earlier for earlier, later in itertools.pairwise(moments)]
    return Turn(periods[WARM_UP - 1 :], [line["seconds"] for line in lines[WARM_UP:]])


def summary(rounds: Sequence[dict[str, Turn]]) -> dict[str, Any]:
    """Each round's median step in milliseconds, and the ratio after / before over the rounds."""
    found: dict[str, Any] = {"rounds": []}
    for turns in rounds:
        found["rounds"].append(
            {
                name: {
                    "step_ms": 1e3 * statistics.median(turn.periods),
                    "stated_ms": 1e3 * statistics.median(turn.stated),
                }
                for name, turn in turns.items()
            }
        )
    for name in ("step_ms", "stated_ms"):
        columns = {side: [one[side][name] for one in found["rounds"]] for side in ("before", "after")}
        ratios = [after / before for before, after in zip(*columns.values(), strict=True)]
        lower, ratio, upper = np.percentile(ratios, (25, 50, 75)).tolist()
        found[name] = {side: statistics.median(values) for side, values in columns.items()}
        found[name] |= {"ratio": ratio, "lower_quartile": lower, "upper_quartile": upper}
    return found


def table(found: dict[str, Any]) -> str:
    """Both trees' steps as Markdown."""
    rows = []
    for name, label in (("step_ms", "from step to step"), ("stated_ms", "`seconds` of the lines")):
        one = found[name]
        spread = f"{one['ratio']:.3f} ({one['lower_quartile']:.3f} to {one['upper_quartile']:.3f})"
        rows.append([label, f"{one['before']:.1f}", f"{one['after']:.1f}", spread])
    sides = [
        f"{side}, {found[side]['commit'][:7]}{' and changes' if found[side]['changed'] else ''}"
        for side in ("before", "after")
    ]
    return markdown_table(("ms, median", *sides, "after / before"), rows)


def advice(options: argparse.Namespace) -> str:
    """What it takes to learn the same of a GPU."""
    return ON_A_GPU.format(ranks=options.ranks, revision=options.revision)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.revisions",
        description=(__doc__ or "").split("\n")[0],
        epilog="--section.key value changes the recipe, for both",
        allow_abbrev=False,
    )
    parser.add_argument("revision", help="what is compared with: a commit, a tag or a branch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="of a turn")
    parser.add_argument("--config", default="tiny-mistral", help="the recipe; each tree has its own")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MghError as error:
        sys.exit(f"error: {error}")
