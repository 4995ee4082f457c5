"""Public data sets that this field trains on, by name: where they lie, what their columns mean, and which
instruction they are trained under.

A new preset is a row here. Its instruction is the registry's (`records.instructions`) for its `dataset`, so
that training and evaluation agree; both sides are told it where the registry calls the data set symmetric.
Licences are those of the original data as far as known, and for the reader to check.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mgh_ds.common.errors import MghError
from mgh_ds.common.problems import nearest
from mgh_ds.records.convert import open_input
from mgh_ds.records.convert.settings import Settings
from mgh_ds.records.formats import FORMATS
from mgh_ds.records.inputs import input_files, why_not
from mgh_ds.records.saved import saved_files, saved_splits
from mgh_ds.records.sources import Origin, Source, open_source


@dataclass(frozen=True)
class Preset:
    """A data set that converts without further words.

    hub, config   where it lies on the hub; None: nowhere in rows, `obtain` says how to come by a copy
    split         the part that is trained on; None: it has none
    format        of the FORMATS
    dataset       its name in the registry of instructions; None: each file's name is
    settings      what else its rows do not say
    nested        whether the files of a copy lie in folders within it
    """

    hub: str | None
    format: str
    dataset: str | None
    about: str
    licence: str
    config: str | None = None
    split: str | None = "train"
    settings: Mapping[str, object] = field(default_factory=dict)
    nested: bool = False
    obtain: str = ""


_OF_SENTENCE_TRANSFORMERS = "sentence-transformers"
_MSMARCO = "sentence-transformers/msmarco-msmarco-distilbert-base-tas-b"

PRESETS: dict[str, Preset] = {
    "nli": Preset(
        "sentence-transformers/all-nli",
        "nli",
        "allnli",
        "SNLI and MultiNLI, 942,069 labelled pairs: contradictions and neutrals become graded negatives",
        "SNLI CC BY-SA 4.0; MultiNLI by genre, mostly the OANC's",
        config="pair-class",
    ),
    "nli-triplets": Preset(
        "sentence-transformers/all-nli",
        _OF_SENTENCE_TRANSFORMERS,
        "allnli",
        "the same as 557,850 triples, whose negative is a contradiction, ungraded",
        "as nli",
        config="triplet",
        settings={"subtype": "short-short"},
    ),
    "msmarco": Preset(
        _MSMARCO,
        _OF_SENTENCE_TRANSFORMERS,
        "msmarco_passage",
        "MS MARCO passages, 502,939 triples with a mined negative",
        "MS MARCO's own: research, not commercial",
        config="triplet",
        settings={"columns": {"anchor": "query"}},
    ),
    "msmarco-50": Preset(
        _MSMARCO,
        _OF_SENTENCE_TRANSFORMERS,
        "msmarco_passage",
        "MS MARCO passages, queries with 50 mined negatives each",
        "as msmarco",
        config="triplet-50",
        settings={"columns": {"anchor": "query"}},
    ),
    "nq": Preset(
        "sentence-transformers/natural-questions",
        _OF_SENTENCE_TRANSFORMERS,
        "nq",
        "Natural Questions, 100,231 pairs of question and passage",
        "CC BY-SA 3.0",
        config="pair",
        settings={"columns": {"anchor": "query", "positive": "answer"}},
    ),
    "hotpotqa": Preset(
        "sentence-transformers/hotpotqa",
        _OF_SENTENCE_TRANSFORMERS,
        "hotpot_qa",
        "HotpotQA, 84,500 triples with a mined negative",
        "CC BY-SA 4.0",
        config="triplet",
    ),
    "fever": Preset(
        None,
        "beir",
        "fever",
        "FEVER, 109,810 claims with the documents that support or refute them, as BEIR has it",
        "CC BY-SA 3.0, with Wikipedia's terms",
        obtain="BEIR's fever.zip, unpacked: corpus.jsonl, queries.jsonl, qrels/train.tsv",
    ),
    "quora": Preset(
        "sentence-transformers/quora-duplicates",
        _OF_SENTENCE_TRANSFORMERS,
        "quora_duplicates",
        "Quora duplicate questions, 101,762 triples whose negative was judged to ask something else",
        "Quora's own: not commercial",
        config="triplet",
    ),
    "gooaq": Preset(
        "sentence-transformers/gooaq",
        _OF_SENTENCE_TRANSFORMERS,
        "gooaq",
        "GooAQ, 3 million pairs of a search question and its answer",
        "Apache 2.0",
        config="pair",
        settings={"columns": {"anchor": "question", "positive": "answer"}},
    ),
    "e5-mix": Preset(
        None,
        "llm2vec",
        None,
        "the public part of E5's data that echo-embeddings and LLM2Vec train on, 1.5 million triples",
        "by file: each data set's own",
        split=None,
        obtain="the folder of JSONL files, one a data set, that the README of echo-embeddings links to",
    ),
    "bge-m3": Preset(
        None,
        "flagembedding",
        None,
        "what BGE-M3 is fine-tuned on, in many languages, with mined negatives",
        "by file: each data set's own",
        split=None,
        settings={"otherwise": "Given a query, retrieve passages that answer it", "language": "mul"},
        nested=True,
        obtain="bge-m3-data.tar.gz of Shitao/bge-m3-data on the hub, unpacked",
    ),
}


def open_named(
    name: str, format: str | None, copy: Path | None, origin: Origin, settings: Mapping[str, object]
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
        return open_input(origin, format), format, Settings(**settings)  # type: ignore[arg-type]
    if name not in PRESETS:
        raise MghError(f"--from is a copy of a preset, and there is none called '{name}'{_known(name)}")
    if format:
        raise MghError(f"The preset '{name}' has its own format: leave --format out")
    preset = PRESETS[name]
    source = _open(name, preset, copy, origin)
    said = dict(preset.settings)
    columns = {**said.get("columns", {}), **settings.get("columns", {})}  # type: ignore[dict-item]
    said |= {"dataset": preset.dataset, **settings, "columns": columns}
    notes = {"preset": name, **source.notes}
    return replace(source, notes=notes), preset.format, Settings(**said)  # type: ignore[arg-type]


def _open(name: str, preset: Preset, copy: Path | None, origin: Origin) -> Source:
    config, split = origin.config or preset.config, origin.split or preset.split
    if copy is None:
        if preset.hub is None:
            raise MghError(f"The preset '{name}' needs a copy, --from FOLDER: {preset.obtain}")
        return open_input(Origin(preset.hub, config, split, origin.revision), preset.format)
    if not copy.exists():
        raise MghError(f"{copy} does not exist: --from is a copy of the preset's data")
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
    return f"{near}. Formats: {', '.join(FORMATS)}. Presets: {', '.join(PRESETS)} (`mgh-ds data presets`)"
