"""`mgh-ds synth plan | run | status | merge | judge | audit`: what they print, and how they end."""

import argparse
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from tqdm import tqdm

from mgh_ds.audit.agreement import SOUND_KAPPA
from mgh_ds.common import files
from mgh_ds.common.config import load_config
from mgh_ds.common.errors import MghError
from mgh_ds.common.token_counts import in_words
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.store import Store, is_store
from mgh_ds.synthesis.config import JudgeConfig
from mgh_ds.synthesis.counts import Counts, goal_of
from mgh_ds.synthesis.decisions import DROP_AT_MOST, DROPPABLE, decisions_to_drop
from mgh_ds.synthesis.merge import merge
from mgh_ds.synthesis.plan import SynthesisPlan, freeze_plan, open_plan
from mgh_ds.synthesis.progress import WorkerProgress
from mgh_ds.synthesis.status import read_status, status_table
from mgh_ds.synthesis.tasks import tasks_path
from mgh_ds.synthesis.worker import run

if TYPE_CHECKING:
    from mgh_ds.audit.false_negatives import Judge
    from mgh_ds.common.protocols import Embed

# For schedulers: work is left and nothing is wrong, so try again later (EX_TEMPFAIL of sysexits.h).
STOPPED = 75
KEPT = "what was finished is kept, the same command goes on with the rest"


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds synth plan`."""
    parser.add_argument(
        "--config", required=True, metavar="RECIPE", help="a file, or a name such as synth-scripted"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="new folder for all that follows"
    )
    parser.set_defaults(
        call=lambda config, output, settings: plan_command(["--config", config, *settings], output)
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds synth run`."""
    parser.add_argument("folder", metavar="DIR", type=Path)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--shard",
        type=int,
        action="append",
        metavar="I",
        dest="shards",
        help="may be given several times",
    )
    which.add_argument(
        "--all",
        action="store_const",
        const=None,
        dest="shards",
        help="every shard that no other worker holds",
    )
    parser.set_defaults(call=run_command)


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds synth status`."""
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.set_defaults(call=status_command)


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds synth merge`."""
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument(
        "--drop", nargs="+", default=[], choices=DROPPABLE, help="leave out what the audit found"
    )
    parser.add_argument(
        "--drop-at-most",
        type=float,
        metavar="SHARE",
        help=f"share of the records that --drop may leave out (default: {DROP_AT_MOST}, and none by the "
        f"verdicts of a judge whose kappa is below {SOUND_KAPPA})",
    )
    parser.add_argument("--partial", action="store_true", help="merge what there is of unfinished shards")
    parser.set_defaults(call=merge_command)


def add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds synth judge`."""
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--sample", type=int, metavar="N", help="judge at most N records (default: all)")
    parser.add_argument(
        "--levels",
        type=int,
        nargs="+",
        choices=LEVELS,
        default=LEVELS,
        help="whose negatives are judged (default: all levels)",
    )
    parser.set_defaults(call=judge_command)


def plan_command(arguments: Sequence[str], output: Path) -> None:
    """Freezes a configuration (`--config FILE`, `--section.key value`) in the new folder `output`."""
    plan = freeze_plan(arguments, output)
    budget = plan.config.samples.budget
    goal = f"{goal_of(plan, 'samples'):,} {'samples' if budget.tokens is None else 'tokens'}"
    print(f"plan {plan.plan_hash[:16]} in {output}: {goal} in {plan.config.shards} shards")
    print(f"next: {_synth('run', output)} --all")


def run_command(folder: Path, shards: Sequence[int] | None, settings: Sequence[str] = ()) -> None:
    """Works through the given shards, or all of them if None.

    Ends the process with exit code 75 if it was told to stop (SIGTERM, SIGUSR1): what was finished is kept,
    and the same command goes on with the rest. Raises MghError for what a retry cannot mend.
    """
    plan = open_plan(folder, settings)
    plan.check_units()
    chosen = list(dict.fromkeys(range(plan.config.shards) if shards is None else shards))
    for shard in chosen:
        plan.check_shard(shard)
    progress = WorkerProgress(plan)
    try:
        with _stoppable(progress):
            held = run(plan, chosen, progress)
    except _Stopped as stopped:
        progress.log(f"stopped by {stopped}: {KEPT}")
        raise SystemExit(STOPPED) from None
    except KeyboardInterrupt:
        progress.log(f"stopped by Ctrl-C: {KEPT}")
        raise
    except OSError as error:
        if files.disk_is_full(error):
            raise MghError(
                f"the disk of {folder} is full: everything finished so far is safe. Free some space and give "
                "the same command again"
            ) from error
        raise
    finally:
        progress.close()
    if held:
        print(f"other workers hold {len(held)} of the shards: {', '.join(map(str, held[:10]))}")
    _print_shards_done(plan)


def status_command(folder: Path) -> None:
    """Prints how far the work is; reads files only."""
    Console().print(status_table(open_plan(folder)))


def merge_command(
    folder: Path,
    drop: Sequence[str] = (),
    drop_at_most: float | None = None,
    partial: bool = False,
    settings: Sequence[str] = (),
) -> None:
    """Merges the parts into `folder`/merged. `drop` names findings of the audit whose samples are left out,
    `drop_at_most` the share of the records that they may be: see `decisions_to_drop`."""
    plan = open_plan(folder, settings, new_filters=True)
    if not tasks_path(plan).exists():
        raise MghError(
            f"nothing to merge yet: stage 1 of {folder} is not done. First: {_synth('run', folder)} --all"
        )
    dropped = decisions_to_drop(folder, drop, drop_at_most)
    with tqdm(unit=" units", delay=1, leave=False, disable=None) as bar:
        merged = merge(plan, partial=partial, drop=dropped, progress=bar.update)
    counts = merged.counts
    print(f"{counts.accepted:,} records of {counts.units:,} units in {merged.path}")
    for reason, count in counts.reasons.most_common():
        print(f"  refused {count:,}: {reason}")
    train = shlex.quote(f"[{merged.path}]")
    if partial and (left := read_status(plan)["samples"].journalled):
        print(f"{left:,} finished units are in journals only, and left out: {_synth('run', folder)} goes on")
    print(f"next: {_synth('audit', folder)}, and training with --data.train {train}")


def open_merged_plan(folder: Path) -> SynthesisPlan:
    """Opens a frozen plan whose records are merged. Raises MghError if they are not."""
    plan = open_plan(folder)
    if not is_store(folder / "merged"):
        raise MghError(f"{folder} has no merged records. First: {_synth('merge', folder)}")
    return plan


def judge_command(
    folder: Path,
    sample: int | None = None,
    levels: Sequence[int] = LEVELS,
    settings: Sequence[str] = (),
) -> None:
    """Has the language model of `settings` judge the negatives of the merged records, into `folder`/judged.

    Raises MghError if nothing was merged, for a sample of no record, and for what a retry cannot mend;
    answers are kept all the same.
    """
    from mgh_ds.audit.agreement import labelled_set
    from mgh_ds.audit.inputs import StoredRecords, sample_rows
    from mgh_ds.synthesis.judging import judge_negatives

    plan = open_merged_plan(folder)
    config = load_config(JudgeConfig, settings)
    records = StoredRecords(Store.open(folder / "merged"))
    rows = sample_rows(len(records), sample, plan.config.seed)
    negatives, labelled = len(rows) * len(set(levels)), len(labelled_set())
    print(f"{negatives:,} negatives and {labelled} labelled ones for {config.engine.model}: a call each")
    with tqdm(total=negatives + labelled, unit=" verdicts", delay=1, leave=False, disable=None) as bar:
        made = judge_negatives(
            folder,
            records,
            config,
            levels=levels,
            sample=sample,
            seed=plan.config.seed,
            progress=bar.update,
        )
    agreement, cost = made["agreement"], made["cost"]
    print(f"{made['found']:,} of {made['judged']:,} negatives are right answers, says {made['judge']}")
    print(
        f"agreement with {agreement['judged']} of {agreement['items']} labelled by hand: "
        f"accuracy {agreement['accuracy']['value']:.2f}, precision {_ratio(agreement['precision'])}, "
        f"recall {_ratio(agreement['recall'])}, Cohen's kappa {_ratio(agreement['kappa'])}"
    )
    tokens = ", ".join(
        f"{in_words(cost[f'tokens_{way}'], cost[f'counted_{way}'], cost['answered'])} {way}"
        for way in ("in", "out")
    )
    print(f"cost: {cost['calls']:,} calls, tokens {tokens}")
    for reason, count in cost["without_verdict"].items():
        print(f"  without a verdict {count:,}: {reason}; the same command asks again")
    print(f"next: {_synth('audit', folder)}")


def audit_command(
    folder: Path,
    embed: "Embed",
    embedder: str,
    judge: "Judge | None" = None,
    *,
    sample: int | None = None,
) -> None:
    """Measures the merged records and writes `folder`/audit: the report as HTML and Markdown, the figures,
    and a decision on each record. `judge` says which negatives are false; without one, the language model of
    `judge_command` does, if there was one.

    Raises MghError if nothing was merged.
    """
    from mgh_ds.audit.composition import Cost
    from mgh_ds.audit.inputs import StoredRecords
    from mgh_ds.audit.run import audit
    from mgh_ds.synthesis.judging import read_judge

    plan = open_merged_plan(folder)
    store = Store.open(folder / "merged")
    counts = Counts.from_json(store.manifest.notes["counts"])
    cost = Cost(
        counts.accepted,
        counts.reasons,
        counts.tokens_in,
        counts.tokens_out,
        answered=counts.answered,
        counted_in=counts.counted_in,
        counted_out=counts.counted_out,
    )
    audit(
        StoredRecords(store),
        cost,
        embed,
        embedder,
        folder / "audit",
        judge=judge or read_judge(folder),
        sample=sample,
        seed=plan.config.seed,
    )
    print(f"report: {folder / 'audit' / 'audit.html'}")


def _ratio(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _print_shards_done(plan: SynthesisPlan) -> None:
    """How many shards of the whole plan are done, and what to do next."""
    paths = [plan.shard_folder("samples", shard) / "done.json" for shard in range(plan.config.shards)]
    done = [files.read_json(path) for path in paths if path.exists()]
    if short := sum(content["short"] for content in done):
        print(f"{short} of the shards ended short of their goal: their rounds of top-up are used up")
    if len(done) == len(paths):
        print(f"done. next: {_synth('merge', plan.folder)}")
    else:
        print(
            f"{len(done)} of {len(paths)} shards are done. next, unless other workers have the rest: "
            f"{_synth('run', plan.folder)} --all"
        )


def _synth(verb: str, folder: Path) -> str:
    """A command to be copied into a shell."""
    return f"mgh-ds synth {verb} {shlex.quote(str(folder))}"


class _Stopped(BaseException):
    """Raised by a signal. No handler of ordinary exceptions may swallow it."""


@contextmanager
def _stoppable(progress: WorkerProgress) -> Iterator[None]:
    """SIGTERM and SIGUSR1, which schedulers send before they kill, end the block in order."""

    def stop(number: int, _frame: object) -> NoReturn:
        # Raised at once, to end any wait. If that happens within a finaliser or C code, which swallow it, the
        # worker's next step raises it again.
        progress.stop_with = _Stopped(signal.Signals(number).name)
        raise progress.stop_with

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
