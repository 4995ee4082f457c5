"""`mgh-ds synth audit`. It loads models, which synthesis does not know: it stands above the rooms."""

import argparse
from pathlib import Path
from typing import get_args

from mgh_ds.common import extras
from mgh_ds.common.errors import MghError
from mgh_ds.model.config import PoolingMethod
from mgh_ds.model.weights import MINILM

ALPHA = 0.95


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds synth audit`."""
    parser.add_argument("folder", metavar="DIR", type=Path)
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
    folder: Path,
    embedder: str,
    pooling: PoolingMethod,
    cross_encoder: str | None,
    alpha: float | None,
    sample: int | None,
) -> None:
    """Loads embedder and cross-encoder and audits the merged records of a frozen plan.

    Raises MghError if nothing was merged, if a model cannot be loaded, or for --alpha
    without a cross-encoder.
    """
    if alpha is not None and not cross_encoder:
        raise MghError("--alpha is for --cross-encoder MODEL, which is not given")
    if cross_encoder:
        extras.need("evaluation", "--cross-encoder")
    from mgh_ds.synthesis.commands import audit_command, open_merged_plan

    open_merged_plan(folder)  # before minutes go into models
    from mgh_ds.audit.cross_encoder import cross_encoder_judge
    from mgh_ds.evaluation.judges import load_cross_encoder, load_embedder

    embed, judge = load_embedder(embedder, pooling), None
    if cross_encoder:
        score_pairs = load_cross_encoder(cross_encoder)
        judge = cross_encoder_judge(score_pairs, cross_encoder, ALPHA if alpha is None else alpha)
    audit_command(folder, embed, embedder, judge, sample=sample)
