"""`mgh-ds <verb>`: a table of verbs. The room that does a verb's work also declares its arguments, and is
imported only when its verb is chosen."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mgh_ds import __version__
from mgh_ds.common import extras
from mgh_ds.common.errors import MghError

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
        declared_by: `module:function`; the function takes the verb's parser, adds arguments to it, and sets
            the default `call` to what does the work.
        help: a line for `mgh-ds --help`.
        takes_keys: any key of a recipe may be given too; `call` gets those words as `settings`.
        extra: the extra of the package without which there is nothing to call.
    """

    declared_by: str
    help: str
    takes_keys: bool = False
    extra: str | None = None

    def declare(self, parser: argparse.ArgumentParser) -> None:
        """Imports the verb's room, which adds the arguments."""
        module, function = self.declared_by.split(":")
        getattr(importlib.import_module(module), function)(parser)


# A verb of two words belongs to a group.
GROUPS = {
    "config": "what recipes may hold",
    "data": "check, convert, export and describe training records",
    "synth": "have a language model write graded records",
}
VERBS = {
    "train": Verb("mgh_ds.train:add_arguments", "train, score, export and report one run", takes_keys=True),
    "plan": Verb(
        "mgh_ds.training.commands:add_plan_arguments",
        "what a run would train on and how ranks are loaded; --section.key value overrides its keys",
        takes_keys=True,
    ),
    "export": Verb(
        "mgh_ds.training.commands:add_export_arguments",
        "write a run's model as a sentence-transformers folder, and as an ONNX graph",
    ),
    "report": Verb("mgh_ds.report.commands:add_arguments", "write a run's HTML page"),
    "push": Verb(
        "mgh_ds.hub.commands:add_push_arguments",
        "send a model, a run or records to a hub; --yes, or a dry run",
    ),
    "pull": Verb(
        "mgh_ds.hub.commands:add_pull_arguments", "fetch a revision from a hub, such as a run to go on with"
    ),
    "eval": Verb(
        "mgh_ds.evaluation.commands:add_arguments", "score a model on MTEB tasks", extra="evaluation"
    ),
    "encode": Verb("mgh_ds.encoding.commands:add_arguments", "embed a corpus, by one worker or several"),
    "ablate": Verb(
        "mgh_ds.ablation.commands:add_arguments",
        "train and score a grid of recipes",
        takes_keys=True,
        extra="evaluation",
    ),
    "anchors": Verb(
        "mgh_ds.anchors:add_arguments", "show where a model's attention goes, to choose a pooling by"
    ),
    "config keys": Verb(
        "mgh_ds.recipes:add_keys_arguments", "print every key of a recipe with its type, default and bounds"
    ),
    "config schema": Verb(
        "mgh_ds.recipes:add_schema_arguments", "write the JSON schemas by which editors check recipes"
    ),
    "data validate": Verb(
        "mgh_ds.records.commands:add_validate_arguments", "check every row of a file or store"
    ),
    "data convert": Verb(
        "mgh_ds.records.commands:add_convert_arguments",
        "convert files, a data set on the hub or a preset into a store",
    ),
    "data presets": Verb(
        "mgh_ds.records.commands:add_presets_arguments", "list the public data sets that convert by name"
    ),
    "data export": Verb(
        "mgh_ds.records.commands:add_export_arguments",
        "write records as other trainers and benchmarks read them",
    ),
    "data mine": Verb(
        "mgh_ds.mining.commands:add_arguments", "find hard negatives for records in a corpus, and grade them"
    ),
    "data stats": Verb("mgh_ds.records.commands:add_stats_arguments", "describe a store or JSONL file"),
    "synth plan": Verb(
        "mgh_ds.synthesis.commands:add_plan_arguments",
        "check a recipe and freeze it; --section.key value overrides its keys",
        takes_keys=True,
    ),
    "synth run": Verb(
        "mgh_ds.synthesis.commands:add_run_arguments",
        "work through shards; --engine.key value says how to drive the engine",
        takes_keys=True,
    ),
    "synth status": Verb(
        "mgh_ds.synthesis.commands:add_status_arguments", "how far it is; may be asked while workers run"
    ),
    "synth merge": Verb(
        "mgh_ds.synthesis.commands:add_merge_arguments",
        "make one data set; --filters.key value judges the answers anew",
        takes_keys=True,
    ),
    "synth judge": Verb(
        "mgh_ds.synthesis.commands:add_judge_arguments",
        "ask a language model which negatives are right answers; --engine.key value says which one",
        takes_keys=True,
    ),
    "synth audit": Verb(
        "mgh_ds.synth_audit:add_arguments",
        "measure whether the levels hold, and what else a sceptic would ask",
        extra="synthesis",
    ),
    "doctor": Verb(
        "mgh_ds.doctor:add_arguments", "say what is installed, what a run would use and what is missing"
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one verb; a problem that the user can mend ends in one line and exit code 1."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    name = next((name for name in (" ".join(words[:2]), *words[:1]) if name in VERBS), None)
    parser = build_parser(name)
    parsed, unknown = parser.parse_known_args(words)
    if name is None:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    verb, options = VERBS[name], vars(parsed)
    if verb.takes_keys:
        options["settings"] = unknown  # load_config refuses those that are no keys
    elif unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    call = options.pop("call")
    try:
        if verb.extra:
            extras.need(verb.extra, f"mgh-ds {name}")
        call(**options)
    except (MghError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The command line: every verb with its help, and the arguments of the `chosen` one."""
    parser = argparse.ArgumentParser(
        prog="mgh-ds", description="Text-embedding models from graded negatives."
    )
    parser.add_argument("--version", action="version", version=f"mgh-ds {__version__}")
    places: dict[str, Any] = {"": parser.add_subparsers(metavar="verb", required=True)}
    for name, verb in VERBS.items():
        group, _, word = name.rpartition(" ")
        if group not in places:
            parent = places[""].add_parser(group, help=GROUPS[group])
            places[group] = parent.add_subparsers(metavar="verb", required=True)
        # Without abbreviations: `--seed` is a key of recipes, not short for `--seeds`.
        place = places[group].add_parser(word, help=verb.help, allow_abbrev=not verb.takes_keys)
        if name == chosen:
            verb.declare(place)
    return parser


if __name__ == "__main__":
    main()
