"""`mgh-ds report RUN`: writes a run's page and says where it lies."""

import argparse
from pathlib import Path

from mgh_ds.report.page import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds report`."""
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.set_defaults(call=report_command)


def report_command(run: Path) -> None:
    """Writes one HTML page about a run: loss, accuracy by level, before and after, what held-out
    queries find, token weights.

    Args:
        run: the folder of a run, such as runs/demo; it may still be training.
    """
    print(f"report: {write_report(run)}")
