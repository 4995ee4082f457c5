"""`mgh-ds data validate | convert | presets | export | stats`: what they print, and when they fail."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from mgh_ds.common.errors import MghError
from mgh_ds.records import bundled
from mgh_ds.records.convert import FORMATS, REJECTED, convert
from mgh_ds.records.convert.renaming import parse_columns
from mgh_ds.records.export import EXPORT_FORMATS, Ledger, export
from mgh_ds.records.inputs import listed
from mgh_ds.records.presets import PRESETS, open_named
from mgh_ds.records.relabelled import relabelling_table
from mgh_ds.records.rows import ErrorReport, OnError
from mgh_ds.records.sources import Origin, Source, open_source
from mgh_ds.records.stats import stats, stats_table
from mgh_ds.records.store import Store, is_store
from mgh_ds.records.streams import Progress
from mgh_ds.records.subtypes import SUBTYPES
from mgh_ds.records.validate import validate


def add_validate_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds data validate`."""
    parser.add_argument("path", type=Path)
    parser.add_argument("--format", choices=FORMATS, default="mgh")
    _add_on_error(parser)
    parser.set_defaults(call=validate_command)


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds data convert`."""
    parser.add_argument(
        "input",
        help="a file or folder, OWNER/NAME of a data set on the hub, or a preset (mgh-ds data presets)",
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--format", choices=FORMATS, help="what the rows are; a preset knows")
    parser.add_argument("--from", dest="copy", type=Path, metavar="COPY", help="a preset's data, here")
    parser.add_argument("--config", help="of a data set on the hub, or of a copy of its repository")
    parser.add_argument("--split", help="the same, or of a folder with several (default: train)")
    parser.add_argument("--revision", help="on the hub: a branch, tag or commit (default: main)")
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME=COLUMN",
        help="what the format's columns are called in the data: query=question positive=answer",
    )
    parser.add_argument("--dataset", help="name kept as each record's source (default: the file's name)")
    parser.add_argument("--instruction", help="the task in a sentence, where the rows do not carry it")
    parser.add_argument("--subtype", choices=SUBTYPES, help="shape of the texts, where the rows do not say")
    parser.add_argument(
        "--negatives",
        type=int,
        metavar="N",
        help="of those that a row lists keep the first N, at most 64 (default: all, or what the preset says)",
    )
    parser.add_argument("--language", help="BCP-47 tag (default: en, or the preset's)")
    _add_on_error(parser)
    parser.set_defaults(call=convert_command)


def add_presets_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds data presets`."""
    parser.set_defaults(call=presets_command)


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds data export`."""
    parser.add_argument("input", help="a store, MGH JSONL, or the name of a bundled set")
    parser.add_argument("output", type=Path, help="a file by its ending, or a folder, as the format has it")
    parser.add_argument("--format", choices=EXPORT_FORMATS, required=True)
    parser.add_argument(
        "--negatives",
        type=int,
        metavar="N",
        help="of sentence-transformers: how many every row gets, the hardest (default: all, if all records "
        "have as many)",
    )
    parser.add_argument("--replace", action="store_true", help="write over an output that is there")
    parser.set_defaults(call=export_command)


def add_stats_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds data stats`."""
    parser.add_argument("path", type=Path)
    parser.set_defaults(call=stats_command)


def validate_command(path: Path, format: str = "mgh", on_error: OnError = "skip") -> None:
    """Checks every row of a file, a folder of files, a store or a bundled set, and prints what is wrong with
    which row.

    Raises MghError if any row is refused or if there is none.
    """
    path = bundled.resolve(path)
    with _progress(path) as progress:
        report = validate(path, format, on_error, progress)
    _print_report(report)
    report.refuse_if_empty(path)
    if report.rejected:
        raise MghError(
            f"{report.rejected:,} of {report.rows_read:,} rows of {path} are not usable: see above"
        )


def convert_command(
    input: str | Path,
    output: Path,
    format: str | None = None,
    on_error: OnError = "skip",
    *,
    copy: Path | None = None,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    columns: Sequence[str] | None = None,
    **settings: Any,
) -> None:
    """Converts files, a data set on the hub, or a preset into a store, and prints what became of the rows.

    `settings` are other fields of `records.convert.settings.Settings`, None where the user says nothing.

    Raises MghError if the input cannot be reached, if no row is usable, at the first bad row if `on_error` is
    "stop", or if `output` exists.
    """
    if output.exists():  # to be said before anything is fetched
        raise MghError(f"{output} exists already: choose another name or remove it first")
    said = {name: value for name, value in settings.items() if value is not None}
    said["columns"] = parse_columns(columns or [])
    origin = Origin(input, config, split, revision)
    source, format, given = open_named(str(input), format, copy, origin, said)
    with _progress(source) as progress:
        summary = convert(source, output, format, given, on_error=on_error, progress=progress)
    _print_report(summary.report)
    console = Console()
    console.print(Text(f"{summary.records:,} records in {summary.path}"))
    if summary.report.rejected:
        console.print(Text(f"The refused rows are in {summary.path / REJECTED}"))


def presets_command() -> None:
    """Prints the presets of `mgh-ds data convert`."""
    table = Table(show_lines=True)
    for heading in ("preset", "what", "from", "format", "instruction", "licence"):
        table.add_column(heading, overflow="fold")  # a name that is cut cannot be copied
    for name, preset in PRESETS.items():
        cells = (name, preset.about, preset.place, preset.format, preset.instruction, preset.licence)
        table.add_row(*map(Text, cells))
    Console().print(table)


def export_command(
    input: str, output: Path, format: str, negatives: int | None = None, replace: bool = False
) -> None:
    """Writes records in a format that other programs read, and prints what it has no place for.

    Raises MghError as `records.export.export` does.
    """
    path = bundled.resolve(input)
    total = len(Store.open(path)) if is_store(path) else None
    with tqdm(total=total, unit=" records", delay=1, leave=False, disable=None) as bar:
        summary = export(path, output, format, negatives=negatives, replace=replace, progress=bar.update)
    _print_ledger(summary.path, summary.ledger)


def stats_command(path: Path) -> None:
    """Prints what a store, an MGH JSONL file or a bundled set holds. Raises MghError if that is nothing."""
    path = bundled.resolve(path)
    with _progress(path) as progress:
        found = stats(path, progress)
    Console().print(stats_table(found))
    if found["relabelled"]:
        Console().print(relabelling_table(found["relabelled"]))


def _add_on_error(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on-error",
        choices=get_args(OnError),
        default="skip",
        help="what to do at a bad row (default: skip)",
    )


def _print_report(report: ErrorReport) -> None:
    console = Console()
    counts = f"{report.rows_read:,} rows read, {report.accepted:,} accepted, {report.rejected:,} refused"
    console.print(Text(counts + (f", {report.blank_lines:,} blank lines" if report.blank_lines else "")))
    if report.not_read:
        console.print(Text(f"Not read: {listed(report.not_read)}"), soft_wrap=True)
    if report.ignored_keys:
        unused = ", ".join(f"{key} ({count:,} rows)" for key, count in report.ignored_keys.most_common(10))
        console.print(Text(f"Keys that this format does not use: {unused}"))
    if report.shortened:
        console.print(Text(f"{report.shortened:,} rows list more negatives than are kept, the first ones"))
    if report.rejected:
        table = Table("field", "what", "rows", title="Refused", title_justify="left")
        for (field, kind), count in report.reasons.most_common(20):
            table.add_row(Text(field), Text(kind), f"{count:,}")
        console.print(table)
        console.print("For example:")
        for reason, _ in report.reasons.most_common(20):
            console.print(Text(f"  {report.examples[reason]}"), style="red", soft_wrap=True)


def _print_ledger(path: Path, ledger: Ledger) -> None:
    console = Console()
    console.print(Text(f"{ledger.records:,} records in {path}, {ledger.rows:,} rows"), soft_wrap=True)
    for reason, count in ledger.left_out.items():
        console.print(Text(f"Left out: {count:,} records {reason}"), soft_wrap=True)
    if ledger.lost:
        lost = ", ".join(f"{part} ({count:,})" for part, count in sorted(ledger.lost.items()))
        console.print(Text(f"Not kept, as this format has no place for them: {lost}"), soft_wrap=True)
    for note, count in ledger.notes.items():
        console.print(Text(f"{count:,} {note}"), soft_wrap=True)


@contextmanager
def _progress(what: Path | Source) -> Iterator[Progress]:
    """A bar over a store's records or the rows' bytes, shown on a terminal once it takes over a second."""
    if isinstance(what, Path) and is_store(what):
        bar = tqdm(total=len(Store.open(what)), unit=" records", delay=1, leave=False, disable=None)
    else:
        size = what.size if isinstance(what, Source) else open_source(Origin(what)).size
        bar = tqdm(total=size, unit="B", unit_scale=True, delay=1, leave=False, disable=None)
    with bar:
        yield bar.update
