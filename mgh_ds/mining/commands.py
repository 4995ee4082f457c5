"""`mgh-ds data mine`: hard negatives for records from a corpus, by one worker or several."""

import argparse
import math
import os
from pathlib import Path
from typing import Any

from mgh_ds.common import extras, files
from mgh_ds.encoding.settings import EncodingSettings, add_encoding_arguments
from mgh_ds.mining.selection import BORDERS, Selection

# Only light imports here: the command line reads this module even to print its help.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds data mine`."""
    parser.add_argument(
        "records", type=Path, help="a store, as data convert makes it of other formats, or MGH JSONL"
    )
    parser.add_argument(
        "output", type=Path, help="folder of the result, records.jsonl, and of what leads to it"
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        help="where negatives come from, as mgh-ds encode reads it; default: the records' own positives",
    )
    add_encoding_arguments(parser)
    parser.add_argument(
        "--instructions", action="store_true", help="read queries under their record's instruction"
    )
    parser.add_argument(
        "--document-instruction", metavar="TEXT", help="what documents are read under; default: nothing"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="forget the negatives that records have; by default they stay, as they are, before those mined",
    )
    default = Selection()
    parser.add_argument(
        "--negatives",
        type=int,
        metavar="N",
        default=default.negatives,
        help=f"how many a record gets; with levels, of each level (default: {default.negatives})",
    )
    parser.add_argument(
        "--rank-min", type=int, default=default.rank_min, help="first rank that is taken, from 1 (default: 1)"
    )
    parser.add_argument(
        "--rank-max", type=int, help="last rank that is taken (default: 10 times as many as a record may get)"
    )
    parser.add_argument(
        "--relative-max",
        type=float,
        metavar="SHARE",
        default=default.relative_max,
        help="leave out what scores above this share of the positive's score "
        f"(default: {default.relative_max}; inf: nothing)",
    )
    parser.add_argument(
        "--absolute-margin",
        type=float,
        metavar="M",
        help="leave out what does not score at least this much below the positive",
    )
    parser.add_argument("--max-score", type=float, metavar="S", help="leave out what scores above this")
    levels = parser.add_mutually_exclusive_group()
    levels.add_argument(
        "--bands",
        type=float,
        nargs=BORDERS,
        metavar="SHARE",
        help="grade negatives by score: shares of the positive's at which levels 2, 3 and 4 begin",
    )
    levels.add_argument(
        "--level-ranks",
        type=int,
        nargs=BORDERS,
        metavar="RANK",
        help="grade negatives by rank: the last ranks of levels 4, 3 and 2",
    )
    parser.add_argument("--drop-unmined", action="store_true", help="leave out records that get no negative")
    parser.add_argument(
        "--cross-encoder",
        metavar="MODEL",
        help="scores candidates and positives anew; the filters and bands then mean its probabilities",
    )
    parser.set_defaults(call=mine_command)


def mine_command(
    records: Path,
    output: Path,
    model: str,
    corpus: Path | None = None,
    instructions: bool = False,
    document_instruction: str | None = None,
    replace: bool = False,
    rank_max: int | None = None,
    cross_encoder: str | None = None,
    worker: int | None = None,
    workers: int | None = None,
    negatives: int = Selection.negatives,
    rank_min: int = Selection.rank_min,
    relative_max: float | None = Selection.relative_max,
    absolute_margin: float | None = None,
    max_score: float | None = None,
    bands: list[float] | None = None,
    level_ranks: list[int] | None = None,
    drop_unmined: bool = False,
    **settings: Any,
) -> None:
    """Mines negatives and prints what became of the candidates; `records.jsonl` in `output` is the result.

    The options from `negatives` to `drop_unmined` are explained in `Selection`; `settings` are the fields of
    `EncodingSettings`.

    Raises MghError, before anything is encoded, for options that contradict each other, a model that cannot
    be loaded or reads no instructions, bad rows, and an output of something else.
    """
    from mgh_ds.distributed.workers import this_worker

    if cross_encoder:
        extras.need("evaluation", "--cross-encoder")
    me = this_worker(worker, workers, os.environ)
    encoding = EncodingSettings(model=model, **settings)
    selection = Selection(
        negatives=negatives,
        rank_min=rank_min,
        relative_max=None if relative_max == math.inf else relative_max,
        absolute_margin=absolute_margin,
        max_score=max_score,
        bands=tuple(bands) if bands else None,
        level_ranks=tuple(level_ranks) if level_ranks else None,
        drop_unmined=drop_unmined,
    )
    files.require_writable(output, f"output {output}")

    from mgh_ds.encoding.corpus import Corpus
    from mgh_ds.mining.run import RECORDS, Judge, Request, mine

    request = Request(
        records=records,
        corpus=None if corpus is None else Corpus(corpus),
        selection=selection,
        encoding=encoding,
        rank_max=rank_max,
        instructions=instructions,
        document_instruction=document_instruction,
        replace=replace,
    )
    judge = None
    if cross_encoder:
        from mgh_ds.evaluation.judges import load_cross_encoder
        from mgh_ds.model.fingerprint import fingerprint

        name = cross_encoder
        judge = Judge(name, fingerprint(name), lambda: load_cross_encoder(name))
    encoder = encoding.load(instructions=bool(instructions or document_instruction))
    said = mine(output, request, encoder, judge, me)
    by_level = ", ".join(f"level {name}: {count:,}" for name, count in said["negatives_by_level"].items())
    print(f"{said['records']:,} records in {output / RECORDS}; negatives mined: {by_level or 'none'}")
    if said["records_without_mined_negatives"]:
        fate = " and are left out" if drop_unmined else ""
        print(f"{said['records_without_mined_negatives']:,} records got none{fate}")
    for reason, count in said["left_out"].items():
        print(f"left out, {reason}: {count:,} candidates")
