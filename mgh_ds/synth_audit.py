"""`mgh-ds synth audit`. It loads models, which synthesis does not know: it stands above the rooms."""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from mgh_ds.common import extras
from mgh_ds.common.errors import MghError
from mgh_ds.common.protocols import Embed
from mgh_ds.model.config import PoolingMethod
from mgh_ds.model.weights import MINILM

if TYPE_CHECKING:
    from mgh_ds.audit.false_negatives import Judge
    from mgh_ds.audit.inputs import GradedRecords
    from mgh_ds.records.relabelled import Relabelling


ALPHA = 0.95


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds synth audit`."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a plan's folder, whose merged records are audited; or records: a JSONL file, a store, "
        "the name of a bundled set",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help="of records: where the audit goes; a plan has its own place",
    )
    parser.add_argument(
        "--embedder", default=MINILM, help=f"any model that mgh-ds eval takes (default: {MINILM})"
    )
    parser.add_argument(
        "--pooling",
        choices=get_args(PoolingMethod),
        default="mean",
        help="of the embedder (default: mean)",
    )
    parser.add_argument(
        "--cross-encoder",
        metavar="MODEL",
        help="says which negatives are false; without it mgh-ds synth judge does, if it was run",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        help=f"share of the positive's score that makes a negative false for it (default: {ALPHA})",
    )
    parser.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="embed, and show a cross-encoder, at most N records (default: all)",
    )
    parser.set_defaults(call=synth_audit_command)


def synth_audit_command(
    source: str,
    output: Path | None,
    embedder: str,
    pooling: PoolingMethod,
    cross_encoder: str | None,
    alpha: float | None,
    sample: int | None,
) -> None:
    """Loads embedder and cross-encoder and audits the merged records of a frozen plan, or of any records
    those that have a negative of each level.

    Raises MghError if nothing was merged, if no record can be audited, if a model cannot be loaded, for
    --alpha without a cross-encoder, and for records without --output or a plan with it.
    """
    if alpha is not None and not cross_encoder:
        raise MghError("--alpha is for --cross-encoder MODEL, which is not given")
    if cross_encoder:
        extras.need("evaluation", "--cross-encoder")
    with tempfile.TemporaryDirectory() as scratch:
        audit = _open(source, output, Path(scratch))  # before minutes go into models
        from mgh_ds.audit.cross_encoder import cross_encoder_judge
        from mgh_ds.evaluation.judges import load_cross_encoder, load_embedder

        embed, judge = load_embedder(embedder, pooling), None
        if cross_encoder:
            score_pairs = load_cross_encoder(cross_encoder)
            judge = cross_encoder_judge(score_pairs, cross_encoder, ALPHA if alpha is None else alpha)
        audit(embed, embedder, judge, sample=sample)


def _open(source: str, output: Path | None, scratch: Path) -> Callable[..., None]:
    """What audits `source`, given models. A store of records that are none is put into `scratch`."""
    from mgh_ds.records.store import is_store, open_or_convert

    if Path(source).is_dir() and not is_store(Path(source)):
        from mgh_ds.synthesis.commands import audit_command, open_merged_plan

        if output is not None:
            raise MghError(f"--output is for records: the audit of the plan {source} lies in its folder")
        open_merged_plan(Path(source))
        return partial(audit_command, Path(source))
    if output is None:
        raise MghError(f"{source} is no plan's folder; for records, say where the audit goes: --output DIR")
    from mgh_ds.audit.inputs import GradedRecords
    from mgh_ds.records.relabelled import Relabelling

    store, relabelling = open_or_convert(source, scratch), Relabelling()
    records = GradedRecords(store)
    if not records:
        raise MghError(f"none of the {len(store):,} records has a negative of each level, as an audit needs")
    for record in store:
        relabelling.add(record.source)
    return partial(_audit_records, records, relabelling, output)


def _audit_records(
    records: "GradedRecords",
    relabelling: "Relabelling",
    output: Path,
    embed: Embed,
    embedder: str,
    judge: "Judge | None",
    *,
    sample: int | None,
) -> None:
    from mgh_ds.audit.run import audit

    left_out = records.left_out
    audit(
        records,
        None,
        embed,
        embedder,
        output,
        judge=judge,
        sample=sample,
        left_out=left_out,
        relabelling=relabelling,
    )
    if left_out:
        found = left_out + len(records)
        print(f"{left_out:,} of {found:,} records have not a negative of each level and are left out")
    print(f"report: {output / 'audit.html'}")
