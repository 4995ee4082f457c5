"""`mgh-ds data mine`: hard negatives for records from a corpus, or new levels for those that records have, by
one worker or several."""

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgh_ds.common import extras, files
from mgh_ds.common.errors import MghError
from mgh_ds.encoding.settings import EncodingSettings, add_encoding_arguments
from mgh_ds.mining.selection import BORDERS, Selection

if TYPE_CHECKING:
    from mgh_ds.distributed.workers import Worker
    from mgh_ds.mining.relabel import Teacher

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
    parser.add_argument(
        "--relabel",
        action="store_true",
        help="mine nothing, but judge the negatives that records have, by --model or --cross-encoder: what "
        "the filters take for a positive goes, and --bands give the others their levels",
    )
    add_encoding_arguments(parser, model_required=False)  # not where a cross-encoder relabels
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
    parser.add_argument(
        "--index",
        metavar="FACTORY",
        help="search by an index of faiss, on the CPU: Flat, which is exact as the default is, or an "
        "approximate one such as HNSW32 or IVF4096,Flat",
    )
    parser.add_argument(
        "--index-parameters", metavar="P", help="how the index is searched, such as nprobe=32 or efSearch=64"
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
    model: str | None = None,
    corpus: Path | None = None,
    relabel: bool = False,
    instructions: bool = False,
    document_instruction: str | None = None,
    replace: bool = False,
    rank_max: int | None = None,
    index: str | None = None,
    index_parameters: str | None = None,
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
    """Mines negatives, or judges those that are there (`relabel`), and prints what became of them;
    `records.jsonl` in `output` is the result.

    The options from `negatives` to `drop_unmined` are explained in `Selection`; `settings` are the fields of
    `EncodingSettings`.

    Raises MghError, before anything is encoded, for options that contradict each other, a model that cannot
    be loaded or reads no instructions, bad rows, and an output of something else.
    """
    from mgh_ds.distributed.workers import take_gpu, this_worker

    for option, name in (("--cross-encoder", cross_encoder), ("--index", index)):
        if name == "":  # a variable of the shell that is not set
            raise MghError(f"{option} is empty: name one, or leave it out")
    if cross_encoder:
        extras.need("evaluation", "--cross-encoder")
    if index:
        extras.need("faiss", "--index")
    elif index_parameters:
        raise MghError("--index-parameters is for --index: name the index too")
    me = this_worker(worker, workers, os.environ)
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
    take_gpu(os.environ)
    if relabel:
        _refuse_search(selection, corpus=corpus, replace=replace, rank_max=rank_max, index=index)
        teacher = _teacher(model, cross_encoder, instructions, document_instruction, settings)
        _relabel(records, output, selection, teacher, me)
        return
    if not model:
        raise MghError("--model is missing: its vectors are searched")
    encoding = EncodingSettings(model=model, **settings)

    from mgh_ds.encoding.corpus import Corpus
    from mgh_ds.mining.faiss_index import IndexSpec
    from mgh_ds.mining.rescoring import Judge
    from mgh_ds.mining.result import RECORDS
    from mgh_ds.mining.run import Request, mine

    request = Request(
        records=records,
        corpus=None if corpus is None else Corpus(corpus),
        selection=selection,
        encoding=encoding,
        rank_max=rank_max,
        instructions=instructions,
        document_instruction=document_instruction,
        replace=replace,
        index=IndexSpec(index, index_parameters) if index else None,
    )
    judge = Judge.named(cross_encoder) if cross_encoder else None
    encoder = encoding.load(instructions=bool(instructions or document_instruction))
    said = mine(output, request, encoder, judge, me)
    by_level = ", ".join(f"level {name}: {count:,}" for name, count in said["negatives_by_level"].items())
    print(f"{said['records']:,} records in {output / RECORDS}; negatives mined: {by_level or 'none'}")
    if said["records_without_mined_negatives"]:
        fate = " and are left out" if drop_unmined else " and have none now" if replace else ""
        print(f"{said['records_without_mined_negatives']:,} records got none{fate}")
    if short := said.get("records_with_fewer_mined_negatives"):  # an earlier version did not count them
        each = f", {selection.negatives} of each level" if selection.graded else ""
        print(f"{short:,} records got fewer than the {selection.most} asked for{each}")
    for reason, count in said["left_out"].items():
        print(f"left out, {reason}: {count:,} candidates")


def _refuse_search(selection: Selection, **others: object) -> None:
    """Raises MghError for what has no meaning where nothing is searched."""
    default = Selection()
    of_search = {name: getattr(selection, name) for name in ("negatives", "rank_min", "level_ranks")}
    given = [name for name, value in of_search.items() if value != getattr(default, name)]
    given += [name for name, value in others.items() if value is not None and value is not False]
    if given:
        raise MghError(
            f"--relabel searches nothing: leave out --{given[0].replace('_', '-')}, or mine without --relabel"
        )


def _teacher(
    model: str | None,
    cross_encoder: str | None,
    instructions: bool,
    document_instruction: str | None,
    settings: dict[str, Any],
) -> "Teacher":
    from mgh_ds.mining.relabel import EncoderTeacher
    from mgh_ds.mining.rescoring import Judge

    told = bool(instructions or document_instruction)
    if model and not cross_encoder:
        encoding = EncodingSettings(model=model, **settings)
        return EncoderTeacher(encoding.load(told), encoding, instructions, document_instruction)
    if not cross_encoder or model:
        raise MghError("--relabel takes one teacher: give either --model or --cross-encoder")
    if told:
        raise MghError("--instructions and --document-instruction are for --model: leave them out")
    default = EncodingSettings(model="")
    if given := [name for name, value in settings.items() if value != getattr(default, name)]:
        raise MghError(
            f"--{given[0].replace('_', '-')} is for --model, not for a cross-encoder: leave it out"
        )
    return Judge.named(cross_encoder)


def _relabel(records: Path, output: Path, selection: Selection, teacher: "Teacher", me: "Worker") -> None:
    from rich.console import Console

    from mgh_ds.mining.relabel import relabel
    from mgh_ds.mining.result import RECORDS
    from mgh_ds.records.relabelled import relabelling_table

    said = relabel(output, records, selection, teacher, me)
    print(f"{said['records']:,} records in {output / RECORDS}")
    fate = "are left out" if selection.drop_unmined else "stay as pairs"
    for key, what in (
        ("records_without_negatives", "had no negative"),
        ("records_that_lost_all", "lost all of theirs"),
    ):
        if said[key]:
            print(f"{said[key]:,} records {what} and {fate}")
    for reason, count in said["left_out"].items():
        print(f"left out, {reason}: {count:,} negatives")
    Console().print(relabelling_table(said["relabelled"]))
