"""Rows that the library `datasets` finds: on the hub, streamed without keeping them, or in a copy of a
repository, by its configs and splits. Nothing of a repository is ever run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mgh_ds.common import extras
from mgh_ds.common.errors import MghError
from mgh_ds.records.rows import ErrorReport, Row, printable
from mgh_ds.records.tables import BATCH_ROWS, Reads, read_batches

SCRIPTLESS = 4  # the first major version of `datasets` that runs no program of a repository
LOCAL_WAYS = (
    "Without the hub, convert a copy (of a preset: --from COPY): the folder of `hf download {name} "
    "--repo-type dataset --local-dir COPY` (with the same --config and --split), a folder of `save_to_disk`, "
    "or Parquet, Arrow, CSV or JSONL files"
)


def open_batches(
    place: str, config: str | None, split: str, revision: str | None, *, on_hub: bool
) -> Iterator[Any]:
    """The rows as Arrow tables, which are fetched as they are asked for.

    Raises MghError if the hub cannot be reached, if it or the folder `place` has no such config or split, and
    if `datasets` is missing.
    """
    extras.need("datasets", f"{place}, which `datasets` reads,")
    import datasets

    if int(datasets.__version__.partition(".")[0]) < SCRIPTLESS:
        raise MghError(
            f"datasets {datasets.__version__} may run a repository's own program, and is not asked for "
            f"{place}: pip install 'datasets>={SCRIPTLESS}'"
        )
    with _explained(place, on_hub):
        found = datasets.load_dataset(place, config, split=split, revision=revision, streaming=True)
        batches = iter(found.with_format("arrow").iter(batch_size=BATCH_ROWS))
    return _fetched(place, batches, on_hub)


def read(name: str, tables: Iterator[Any], report: ErrorReport, reads: Reads) -> Iterator[Row]:
    """The rows of the tables, numbered through. Raises MghError if they cannot be fetched to their end."""
    batches = (batch for table in tables for batch in table.to_batches())
    yield from read_batches(name, batches, report, reads)


def _fetched(place: str, batches: Iterator[Any], on_hub: bool) -> Iterator[Any]:
    while True:
        with _explained(place, on_hub):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


@contextmanager
def _explained(place: str, on_hub: bool) -> Iterator[None]:
    """Whatever the library, the client or a file's reader raises becomes a line with the local ways."""
    try:
        yield
    except Exception as error:  # the library hands on what any of its readers and the network raise
        reason = printable(" ".join(f"{type(error).__name__}: {error}".split()), 400)
        if not on_hub:
            raise MghError(f"{place} cannot be read by config and split: {reason}") from error
        out_of_reach = isinstance(error, OSError)  # also of a repository that is private or is not there
        what = "is nothing here, and could not be reached on the hub" if out_of_reach else "cannot be read"
        raise MghError(f"{place} {what}: {reason}. {LOCAL_WAYS.format(name=place)}") from error
