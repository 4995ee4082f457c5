"""A whole mining, as each of its workers goes through it.

    inputs.json        the records and the corpus
    cache/             the records as a store, if they were none
    positives.arrow    the distinct positives of the records
    documents.arrow    the distinct texts of the corpus; without a corpus the positives are searched
    vectors/           of queries, positives and documents, as `mgh-ds encode` writes them
    index/             of faiss, if one is asked for
    candidates/        what the search found for each record
    rescored/          what a cross-encoder says of these
    records.jsonl      the records with their negatives
    mining.json        how they were chosen, and what was left out; written last

A worker begins with its own parts and goes on with those that nobody holds. Where others hold all that are
left it waits, so all workers end together, whichever of them are killed, and the result is the same for every
number of them.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mgh_ds.common.checksums import checksum
from mgh_ds.distributed.workers import Worker
from mgh_ds.encoding.corpus import Corpus
from mgh_ds.encoding.settings import EncodingSettings
from mgh_ds.mining.candidates import CandidateFiles
from mgh_ds.mining.embedding import embed
from mgh_ds.mining.faiss_index import FaissIndex, IndexSpec
from mgh_ds.mining.inputs import VECTORS, forgotten_if_refused, label_inputs, open_inputs, open_store
from mgh_ds.mining.output import write_records
from mgh_ds.mining.parts import make_parts
from mgh_ds.mining.provenance import MINED_KEYS, Provenance, of_negatives, require_room
from mgh_ds.mining.rescoring import Judge, RescoredFiles, load_if_needed
from mgh_ds.mining.result import settled, sha256_of
from mgh_ds.mining.selection import Selection, settled_depth
from mgh_ds.model.encoder import Encoder

RESCORED = "rescored"


@dataclass(frozen=True)
class Request:
    """What is to be mined. `rank_max` is the last rank that is looked at; None: `settled_depth` says."""

    records: Path
    corpus: Corpus | None
    selection: Selection
    encoding: EncodingSettings
    rank_max: int | None = None
    instructions: bool = False
    document_instruction: str | None = None
    replace: bool = False  # the records' own negatives
    index: IndexSpec | None = None  # None: `search`, exact


def mine(folder: Path, request: Request, encoder: Encoder, judge: Judge | None, me: Worker) -> dict[str, Any]:
    """Does this worker's part and returns the content of `mining.json`. What is there already is not made
    again.

    Before anything is encoded raises MghError for bad data, with their place, for a record whose source has
    no room for what is noted there, for more negatives than the corpus has texts, and for a judge that is
    none; and else for a damaged file, and if `folder` was made of other data, with another model, or with
    another choice of negatives.
    """
    selection, corpus = request.selection, request.corpus
    if request.index is not None:
        request.index.check(encoder.dim)
    provenance = _provenance(request, encoder, judge)
    store = open_store(folder, request.records, () if corpus is None else corpus.files)
    replaced = of_negatives if request.replace else MINED_KEYS.__contains__
    require_room(store, np.arange(len(store)), provenance.keys, replaced)
    label_inputs(folder, store, None if corpus is None else [checksum(file) for file in corpus.files])
    with forgotten_if_refused(folder):
        inputs = open_inputs(
            folder, store, corpus, request.instructions, request.document_instruction, request.replace
        )
        searched = request.records if corpus is None else corpus.path
        depth = settled_depth(request.rank_max, selection, len(inputs.documents), searched)
        if judge is not None:
            load_if_needed(judge, folder / RESCORED, len(store))
    embedded = embed(folder / VECTORS, inputs, encoder, request.encoding, me)
    index = None if request.index is None else FaissIndex(folder / "index", embedded.documents, request.index)
    found = CandidateFiles(folder / "candidates", inputs, embedded, depth, index)
    device = encoder.model.device
    make_parts(found.parts, me, found.path, partial(found.make, device=device), "search")
    rescored = None
    if judge is not None:
        rescored = RescoredFiles(folder / RESCORED, inputs, found, judge)
        make_parts(rescored.parts, me, rescored.path, rescored.make, "rescore")

    def write(path: Path) -> dict[str, Any]:
        return write_records(path, inputs, found, rescored, selection, provenance).as_json()

    asked = {"selection": asdict(selection), "rank_max": depth, **provenance.asked()}
    return settled(folder, asked, write)


def _provenance(request: Request, encoder: Encoder, judge: Judge | None) -> Provenance:
    return Provenance(
        encoder.name,
        sha256_of(encoder.origin["weights"]),
        None if judge is None else judge.name,
        None if judge is None else sha256_of(judge.fingerprint),
        None if request.index is None or request.index.exact else str(request.index),
    )
