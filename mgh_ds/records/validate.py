"""Checks data without writing anything: files in any of the formats, or a finished store."""

from pathlib import Path

from mgh_ds.records.convert import records_of
from mgh_ds.records.convert.settings import Settings
from mgh_ds.records.rows import ErrorReport, OnError
from mgh_ds.records.store import Store, is_store
from mgh_ds.records.streams import Progress


def validate(
    path: Path, format: str = "mgh", on_error: OnError = "skip", progress: Progress | None = None
) -> ErrorReport:
    """The ledger of all rows of a file, a folder of files, or a store (whose checksums are compared first).

    Raises MghError if the path is missing, if a store is damaged, and at the first bad row if `on_error` is
    "stop".
    """
    report = ErrorReport(on_error)
    if not is_store(path):
        # What a foreign row does not say itself does not matter to whether the row is sound.
        settings = Settings() if format == "mgh" else Settings(instruction="(any)")
        for _ in records_of(path, format, settings, report, progress):
            pass
        return report
    store = Store.open(path)
    store.verify()
    for _ in store:  # reading a record validates it
        report.rows_read += 1
        report.accepted += 1
        if progress:
            progress(1)
    return report
