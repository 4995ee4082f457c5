"""The vectors of queries, positives and documents, in folders as `mgh-ds encode` writes them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mgh_ds.distributed.workers import Worker
from mgh_ds.encoding.settings import EncodingSettings
from mgh_ds.encoding.texts import Survey, Text
from mgh_ds.encoding.vectors import Vectors
from mgh_ds.encoding.work import describe, encode_parts, parts_of
from mgh_ds.mining.inputs import Inputs
from mgh_ds.model.encoder import Encoder
from mgh_ds.records.instructions import Side


@dataclass(frozen=True)
class Embedded:
    """The vectors of `Inputs`; those of the documents may be those of the positives."""

    queries: Vectors
    positives: Vectors
    documents: Vectors

    @property
    def fingerprints(self) -> dict[str, str]:
        """What the vectors depend on."""
        return {
            "queries": self.queries.manifest.fingerprint,
            "positives": self.positives.manifest.fingerprint,
            "documents": self.documents.manifest.fingerprint,
        }


def embed(folder: Path, inputs: Inputs, encoder: Encoder, settings: EncodingSettings, me: Worker) -> Embedded:
    """Encodes all texts; a worker's own parts of all three first.

    Raises MghError if `folder` holds vectors of another model, or of another use of it.
    """

    def begin(name: str, found: Survey, side: Side, instruction: str | None) -> Vectors:
        manifest = describe(encoder, settings, found, side, instruction, {"of": name})
        return Vectors.begin(folder / name, manifest)

    asked = "(each record's own)" if inputs.instructions else None
    told = inputs.documents.instruction
    queries = begin("queries", inputs.queries.survey, "query", asked)
    positives = documents = begin("positives", inputs.positives.survey, "document", told)
    work: list[tuple[Iterable[Text], Vectors]] = [(inputs.queries, queries), (inputs.positives, positives)]
    if inputs.documents is not inputs.positives:
        documents = begin("documents", inputs.documents.survey, "document", told)
        work.append((inputs.documents, documents))
    for own in (True, False):
        for texts, vectors in work:
            parts = parts_of(me, vectors.parts) if own else range(vectors.parts)
            what = f"encode {vectors.folder.name}"
            encode_parts(vectors, texts, encoder, parts, settings.batch_size, what, settings.batch_tokens)
    return Embedded(queries, positives, documents)
