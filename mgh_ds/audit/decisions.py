"""`decisions.parquet`: what the audit found of each record, so that records can be filtered again without
generating or embedding again."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mgh_ds.audit.duplicates import Duplicates
from mgh_ds.audit.false_negatives import JUDGE, KAPPA, Verdicts, no_verdicts
from mgh_ds.audit.hardness import in_order
from mgh_ds.audit.inputs import Bools, Float32s, Int64s
from mgh_ds.audit.languages import Languages
from mgh_ds.audit.margins import above_positive
from mgh_ds.audit.similarity import Similarities
from mgh_ds.records.levels import LEVELS

ROW_GROUP = 65_536


def write_decisions(
    path: Path,
    ids: Sequence[str],
    similar: Similarities,
    verdicts: Verdicts | None,
    repeated: Duplicates,
    languages: Languages,
) -> None:
    """Writes one row a record in the records' order; what was measured on a sample is null outside it, and
    what no judge spoke of is null too.

    The same inputs give the same bytes.
    """
    count, rows = len(ids), similar.rows
    columns = {
        "id": pa.array(ids, pa.string()),
        "similarity_query_positive": _spread(similar.query_positive, rows, count),
    }
    for at, level in enumerate(LEVELS):
        columns[f"similarity_{level}"] = _spread(similar.to_positive[:, at], rows, count)
    columns["ordered"] = _spread(in_order(similar.to_positive), rows, count)
    above = above_positive(similar)
    for at, level in enumerate(LEVELS):
        columns[f"above_positive_{level}"] = _spread(above[:, at], rows, count)
    nothing = no_verdicts(count)
    found, judged = (verdicts.found, verdicts.judged) if verdicts else (nothing, nothing)
    for at, level in enumerate(LEVELS):
        columns[f"false_negative_{level}"] = pa.array(found[:, at], mask=~judged[:, at])
    columns |= {
        "same_query_as": _id_at(ids, repeated.query),
        "same_positive_as": _id_at(ids, repeated.positive),
        "near_duplicate_of": _id_at(ids, repeated.near),
        "language_found": pa.array(languages.found, pa.string()),
        "language_probability": pa.array(languages.probability),
        "wrong_language": pa.array(languages.wrong),
    }
    table = pa.table(columns)
    if verdicts:
        kappa = json.dumps(verdicts.agreement["kappa"]).encode()
        table = table.replace_schema_metadata({JUDGE: verdicts.judge.encode(), KAPPA: kappa})
    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP)


def _spread(values: Float32s | Bools, rows: Int64s, count: int) -> pa.Array:
    """The values at their records' rows, null elsewhere."""
    everywhere = np.zeros(count, values.dtype)
    everywhere[rows] = values
    missing = np.ones(count, np.bool_)
    missing[rows] = False
    return pa.array(everywhere, mask=missing)


def _id_at(ids: Sequence[str], positions: Int64s) -> pa.Array:
    return pa.array([ids[at] if at >= 0 else None for at in positions.tolist()], pa.string())
