"""A folder as `datasets` saves and loads it (`Dataset.save_to_disk`, `load_from_disk`), with all of every
record.

    data-00000-of-00003.arrow   rows in Arrow's streaming format, some 500 MB a file, as the library cuts them
    state.json                  the files in their order, and a fingerprint of their content
    dataset_info.json           nothing: the library takes the features from the files

The columns are those of the Parquet table (`export.mgh.TABLE`). The library itself is not needed.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from mgh_ds.common import files
from mgh_ds.records.export.ids import text_id
from mgh_ds.records.export.ledger import Ledger
from mgh_ds.records.export.mgh import TABLE, counted, table_row
from mgh_ds.records.export.rows import batches
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store

ENDINGS = ()
MARK = "state.json"
FILE_BYTES = 500 * 10**6


def write_folder(records: Iterable[Record], store: Store, ledger: Ledger, folder: Path) -> None:
    """Writes all records, in their order."""
    count = -(-sum(part.bytes for part in store.manifest.parts) // FILE_BYTES)
    rows_a_file = -(-len(store) // count)
    count = -(-len(store) // rows_a_file)
    rows = (table_row(record) for record in counted(records, ledger))
    names = [f"data-{number:05d}-of-{count:05d}.arrow" for number in range(count)]
    for name in names:
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, TABLE) as writer:
            for batch in batches(itertools.islice(rows, rows_a_file), TABLE):
                writer.write_batch(batch)
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": text_id(*(part.sha256 for part in store.manifest.parts))[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    files.write_json(folder / MARK, state)
    files.write_json(folder / "dataset_info.json", {})
