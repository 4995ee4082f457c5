"""Result files of one device, and what a human reads of them: aims and findings, as Markdown and as text."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import table
from benchmarks.summary import Verdict
from benchmarks.table import Row
from mgh_ds.common import files
from mgh_ds.common.charts import figure
from mgh_ds.common.charts.figure import Panel
from mgh_ds.common.score_tables import markdown_table

COLUMNS = ("", "target", "cases", "median", "worst", "met")


def publish(
    path: Path,
    title: str,
    about: str,
    environment: Mapping[str, str],
    rows: Sequence[Row],
    verdicts: Sequence[Verdict],
    panels: Sequence[Panel],
) -> None:
    """Writes the three files of a device: `path` with the endings csv, svg and md."""
    table.write_rows(csv_of(path), environment, rows)
    draw(path, title, about, environment, verdicts, panels)


def draw(
    path: Path,
    title: str,
    about: str,
    environment: Mapping[str, str],
    verdicts: Sequence[Verdict],
    panels: Sequence[Panel],
) -> None:
    """Writes what people read of a table: `path` with the endings svg and md."""
    csv_file, svg_file, md_file = (
        csv_of(path),
        *(path.with_name(f"{path.name}.{kind}") for kind in ("svg", "md")),
    )
    figure.write(svg_file, panels)
    parts = [
        f"# {title}",
        about,
        markdown_table(("", ""), environment.items(), text_columns=2),
        markdown_table(COLUMNS, map(_cells, verdicts), text_columns=2),
        f"All figures: [{csv_file.name}]({csv_file.name}).",
        f"![Plot of the figures]({svg_file.name})",
    ]
    files.write_text(md_file, "\n\n".join(parts) + "\n")


def csv_of(path: Path) -> Path:
    """The table of the results at `path`."""
    return path.with_name(f"{path.name}.csv")


def text(verdicts: Sequence[Verdict]) -> str:
    """The verdicts for a terminal, aligned."""
    lines = [COLUMNS, *map(_cells, verdicts)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cells(verdict: Verdict) -> tuple[str, ...]:
    what, target, cases, median, worst, met = verdict
    if median is None or worst is None:
        return what, target, "0", "not measured", "", ""
    shown = "" if met is None else ("yes" if met == cases else f"in {met} of {cases}")
    return what, target, str(cases), f"{median:.3g}", f"{worst:.3g}", shown
