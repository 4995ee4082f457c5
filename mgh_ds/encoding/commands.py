"""`mgh-ds encode`: a corpus to vectors, by one worker or several."""

import argparse
import os
from pathlib import Path
from typing import Any, get_args

from mgh_ds.common import files
from mgh_ds.encoding.settings import EncodingSettings, add_encoding_arguments
from mgh_ds.records.instructions import Side

# Only light imports here: the command line reads this module even to print its help.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds encode`."""
    parser.add_argument(
        "corpus",
        type=Path,
        help="rows with _id or id, text and perhaps title: a file, or a folder (BEIR, or of `datasets`)",
    )
    parser.add_argument("output", type=Path, help="folder of the vectors")
    add_encoding_arguments(parser)
    parser.add_argument(
        "--as",
        dest="side",
        choices=get_args(Side),
        default="document",
        help="what the texts are; of a BEIR folder, which file is read (default: document)",
    )
    parser.add_argument(
        "--instruction", metavar="TEXT", help="what each text is read under; default: nothing"
    )
    parser.set_defaults(call=encode_command)


def encode_command(
    corpus: Path,
    output: Path,
    side: Side = "document",
    instruction: str | None = None,
    worker: int | None = None,
    workers: int | None = None,
    **settings: Any,
) -> None:
    """Makes this worker's parts of the vectors of a corpus; those that are there already stay as they are.

    `settings` are the fields of `EncodingSettings`. The vectors are the same for every number of workers, and
    however often one is killed.

    Raises MghError, before anything is encoded, for a bad row of the corpus, a model that cannot be loaded or
    would leave the instruction out, and an output that holds other vectors.
    """
    from mgh_ds.distributed.workers import take_gpu, this_worker

    chosen, me = EncodingSettings(**settings), this_worker(worker, workers, os.environ)
    files.require_writable(output, f"output {output}")

    from mgh_ds.encoding.corpus import Corpus
    from mgh_ds.encoding.texts import survey
    from mgh_ds.encoding.vectors import Vectors
    from mgh_ds.encoding.work import describe, encode_parts, parts_of

    texts = Corpus(corpus, side, instruction)
    found = survey(texts)
    take_gpu(os.environ)
    encoder = chosen.load(instructions=bool(instruction))
    named = {"corpus": [str(file) for file in texts.files]}
    vectors = Vectors.begin(output, describe(encoder, chosen, found, side, instruction, named))
    mine = parts_of(me, vectors.parts)
    encode_parts(vectors, texts, encoder, mine, chosen.batch_size, batch_tokens=chosen.batch_tokens)
    done = sum(vectors.is_done(part) for part in range(vectors.parts))
    said = f"{found.count:,} vectors of {vectors.manifest.dimensions} dimensions in {output}"
    print(said if done == vectors.parts else f"{said}: {done} of {vectors.parts} parts are there")
