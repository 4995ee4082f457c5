"""`mgh-ds synth audit`. Its judges are models, which synthesis does not know: it stands above the rooms."""

import argparse
from pathlib import Path
from typing import get_args

from mgh_ds.common import extras
from mgh_ds.model.config import PoolingMethod
from mgh_ds.model.weights import MINILM


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
        "--cross-encoder", metavar="MODEL", help="judges false negatives in the embedder's place"
    )
    parser.add_argument(
        "--alpha", type=float, default=0.95, help="share of the positive's score (default: 0.95)"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="embed at most N records (default: all)")
    parser.set_defaults(call=synth_audit_command)


def synth_audit_command(
    folder: Path,
    embedder: str,
    pooling: PoolingMethod,
    cross_encoder: str | None,
    alpha: float,
    sample: int | None,
) -> None:
    """Loads the judges and audits the merged records of a frozen plan.

    Raises MghError if nothing was merged, or a model cannot be loaded.
    """
    if cross_encoder:
        extras.need("evaluation", "--cross-encoder")
    from mgh_ds.synthesis.commands import audit_command, open_merged_plan

    open_merged_plan(folder)  # before minutes go into models
    from mgh_ds.evaluation.judges import cross_encoder_judge, embedder_judge

    embed = embedder_judge(embedder, pooling)
    score_pairs = cross_encoder_judge(cross_encoder) if cross_encoder else None
    audit_command(folder, embed, embedder, score_pairs, cross_encoder, alpha=alpha, sample=sample)
