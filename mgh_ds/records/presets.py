"""Public data sets that this field trains on, by name: where they lie, what their columns mean, and which
instruction they are trained under.

A new preset is a row here. Its instruction is the registry's (`records.instructions`) for the data set of its
settings, so that training and evaluation agree; both sides are told it where the registry says symmetric.
Licences are those of the original data as far as known, and for the reader to check.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mgh_ds.common.errors import MghError
from mgh_ds.common.problems import nearest
from mgh_ds.records.convert import open_input
from mgh_ds.records.convert.settings import Settings
from mgh_ds.records.formats import FORMATS
from mgh_ds.records.inputs import input_files, why_not
from mgh_ds.records.instructions import INSTRUCTIONS
from mgh_ds.records.saved import saved_files, saved_splits
from mgh_ds.records.schema import MAX_NEGATIVES
from mgh_ds.records.sources import Origin, Source, open_source


@dataclass(frozen=True)
class Preset:
    """A data set that converts without further words.

    hub, config   where it lies on the hub; hub None: nowhere in rows, `obtain` says how to come by a copy
    split         the part that is trained on; None: it has none
    format        of the FORMATS
    settings      what its rows do not say; their `dataset` is its name in the registry of instructions, None
                  where each file's name is
    nested        whether the files of a copy lie in folders within it
    """

    about: str
    licence: str
    format: str
    settings: Settings = field(default_factory=Settings)
    hub: str | None = None
    config: str | None = None
    split: str | None = "train"
    nested: bool = False
    obtain: str = ""

    @property
    def place(self) -> str:
        """Where it is found, in words."""
        return f"{self.hub} {self.config}" if self.hub else f"--from COPY: {self.obtain}"

    @property
    def instruction(self) -> str:
        """What queries are told, in words."""
        known = self.settings.dataset
        return INSTRUCTIONS[known].text if known else "each file's, by its name"


TRIPLES = "sentence-transformers"
_MSMARCO = "sentence-transformers/msmarco-msmarco-distilbert-base-tas-b"

PRESETS: dict[str, Preset] = {
    "nli": Preset(
        "SNLI and MultiNLI, 942,069 labelled pairs: contradictions and neutrals become graded negatives",
        "SNLI CC BY-SA 4.0; MultiNLI by genre, mostly the OANC's",
        "nli",
        Settings(dataset="allnli"),
        hub="sentence-transformers/all-nli",
        config="pair-class",
    ),
    "nli-triplets": Preset(
        "the same as 557,850 triples, whose negative is a contradiction, ungraded",
        "as nli",
        TRIPLES,
        Settings(dataset="allnli", subtype="short-short"),
        hub="sentence-transformers/all-nli",
        config="triplet",
    ),
    "msmarco": Preset(
        "MS MARCO passages, 502,939 triples with a mined negative",
        "MS MARCO's own: research, not commercial",
        TRIPLES,
        Settings(dataset="msmarco_passage", columns={"anchor": "query"}),
        hub=_MSMARCO,
        config="triplet",
    ),
    "msmarco-50": Preset(
        "MS MARCO passages, queries with 50 mined negatives each",
        "as msmarco",
        TRIPLES,
        Settings(dataset="msmarco_passage", columns={"anchor": "query"}),
        hub=_MSMARCO,
        config="triplet-50",
    ),
    "nq": Preset(
        "Natural Questions, 100,231 pairs of question and passage",
        "CC BY-SA 3.0",
        TRIPLES,
        Settings(dataset="nq", columns={"anchor": "query", "positive": "answer"}),
        hub="sentence-transformers/natural-questions",
        config="pair",
    ),
    "hotpotqa": Preset(
        "HotpotQA, 84,500 triples with a mined negative",
        "CC BY-SA 4.0",
        TRIPLES,
        Settings(dataset="hotpot_qa"),
        hub="sentence-transformers/hotpotqa",
        config="triplet",
    ),
    "fever": Preset(
        "FEVER, 109,810 claims with the documents that support or refute them, as BEIR has it",
        "CC BY-SA 3.0, with Wikipedia's terms",
        "beir",
        Settings(dataset="fever"),
        obtain="BEIR's fever.zip, unpacked: corpus.jsonl, queries.jsonl, qrels/train.tsv",
    ),
    "quora": Preset(
        "Quora duplicate questions, 101,762 triples whose negative was judged to ask something else",
        "Quora's own: not commercial",
        TRIPLES,
        Settings(dataset="quora_duplicates"),
        hub="sentence-transformers/quora-duplicates",
        config="triplet",
    ),
    "gooaq": Preset(
        "GooAQ, 3 million pairs of a search question and its answer",
        "Apache 2.0",
        TRIPLES,
        Settings(dataset="gooaq", columns={"anchor": "question", "positive": "answer"}),
        hub="sentence-transformers/gooaq",
        config="pair",
    ),
    "e5-mix": Preset(
        "the public part of E5's data that echo-embeddings and LLM2Vec train on, 1.5 million triples",
        "each data set's own",
        "llm2vec",
        split=None,
        obtain="the folder of JSONL files, one a data set, that the README of echo-embeddings links to",
    ),
    "bge-m3": Preset(
        "what BGE-M3 is fine-tuned on, in many languages, with mined negatives",
        "each data set's own",
        "flagembedding",
        Settings(
            otherwise="Given a query, retrieve passages that answer it",
            language="mul",
            negatives=MAX_NEGATIVES,  # some rows list more
        ),
        split=None,
        nested=True,
        obtain="bge-m3-data.tar.gz of Shitao/bge-m3-data on the hub, unpacked",
    ),
}


def open_named(
    name: str, format: str | None, copy: Path | None, origin: Origin, settings: Mapping[str, Any]
) -> tuple[Source, str, Settings]:
    """What `mgh-ds data convert` is to read: the rows of a path or a hub name in `format`, or those of a
    preset, from the hub or from a `copy` of it; with the format and the settings.

    What the user says in `settings` and `origin` goes before what the preset says.
    Raises MghError for an unknown preset, if both a preset and a format are given, and as `open_source`.
    """
    is_path = Path(name).exists()
    if copy is None and (format or is_path or name not in PRESETS):
        if format is None:
            hint = f"; for the preset of that name, give --from {name}" if name in PRESETS else ""
            raise MghError(f"--format is missing, which says what the rows of {name} are{hint}{_known(name)}")
        return open_input(origin, format), format, Settings(**settings)
    if name not in PRESETS:
        raise MghError(f"--from is a copy of a preset, and there is none called '{name}'{_known(name)}")
    if format:
        raise MghError(f"The preset '{name}' has its own format: leave --format out")
    preset = PRESETS[name]
    source = _open(name, preset, copy, origin)
    columns = {**preset.settings.columns, **settings.get("columns", {})}
    own = {"like": preset.settings.dataset, **settings, "columns": columns}
    said = replace(preset.settings, **own)
    return replace(source, notes={"preset": name, **source.notes}), preset.format, said


def _open(name: str, preset: Preset, copy: Path | None, origin: Origin) -> Source:
    config, split = origin.config or preset.config, origin.split or preset.split
    if copy is None:
        if preset.hub is None:
            raise MghError(f"The preset '{name}' needs a copy, --from FOLDER: {preset.obtain}")
        return open_input(Origin(preset.hub, config, split, origin.revision), preset.format)
    if not copy.exists():
        raise MghError(f"{copy} does not exist: --from is a copy of the preset's data")
    if origin.revision:
        raise MghError(f"--revision is for the hub, and --from {copy} is a copy here")
    if preset.nested:
        return open_source(Origin(copy), lambda path, _: input_files(path, nested=True))
    if preset.format == "beir" or saved_splits(copy):
        return open_input(Origin(copy, split=split), preset.format)
    if _is_repository(copy):
        return open_input(Origin(copy, config, split), preset.format)
    return open_input(Origin(copy, origin.config, origin.split), preset.format)


def _is_repository(copy: Path) -> bool:
    """Whether a folder has its files in folders, as a repository of the hub has them by config."""
    return copy.is_dir() and not saved_files(copy) and all(why_not(file) for file in copy.iterdir())


def _known(name: str) -> str:
    near = nearest(name, [*PRESETS])
    return (
        f"{near or '.'} Formats: {', '.join(FORMATS)}. Presets: {', '.join(PRESETS)} (`mgh-ds data presets`)"
    )
