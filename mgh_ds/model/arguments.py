"""Options that several verbs share which load a model."""

import argparse
from typing import get_args

from mgh_ds.model.config import Backend

# Only light imports here: the command line reads this module even to print its help.


def add_backend_argument(parser: argparse.ArgumentParser) -> None:
    """Declares `--backend`."""
    parser.add_argument(
        "--backend",
        choices=get_args(Backend),
        default="torch",
        help="what computes the vectors: torch, or the graph that mgh-ds export --onnx [--int8] wrote "
        "(default: torch)",
    )
