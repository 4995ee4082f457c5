"""`mgh-ds <verb>`: the jobs that need no launcher. Each verb parses, imports its room and calls one
function."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from mgh_ds import __version__
from mgh_ds.common.errors import MghError

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

POOLINGS = ("ata", "mean", "last", "cls", "weighted_mean")
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
FINDINGS = ("near_duplicate", "wrong_language", "false_negative", "misordered")
FORMATS = ("mgh", "flagembedding", "sentence-transformers", "llm2vec", "nli", "sts")
VERBS = ("verb", "data_verb", "synth_verb", "config_verb")
SUBTYPES = ("long-long", "long-short", "short-long", "short-short", "paraphrase", "sts")


def main(arguments: list[str] | None = None) -> None:
    """Runs one verb; a problem that the user can mend ends in one line and exit code 1."""
    parser = build_parser()
    parsed, settings = parser.parse_known_args(arguments)
    options = vars(parsed)
    if "settings" in options:  # verbs that take any key of a recipe; load_config refuses the unknown ones
        options["settings"] = settings
    elif settings:
        parser.error(f"unrecognized arguments: {' '.join(settings)}")
    call = options.pop("call")
    try:
        call(**{name: value for name, value in options.items() if name not in VERBS})
    except (MghError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def build_parser() -> argparse.ArgumentParser:
    """The command line with all verbs."""
    parser = argparse.ArgumentParser(
        prog="mgh-ds", description="Text-embedding models from graded negatives."
    )
    parser.add_argument("--version", action="version", version=f"mgh-ds {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True)
    _add_data(verbs.add_parser("data", help="check, convert and describe training records"))
    _add_eval(verbs.add_parser("eval", help="score a model on MTEB tasks"))

    # Without abbreviations: `--seed` is a key of recipes, not short for `--seeds`.
    _add_ablate(verbs.add_parser("ablate", help="train and score a grid of recipes", allow_abbrev=False))

    _add_synth(verbs.add_parser("synth", help="have a language model write graded records"))

    plan = verbs.add_parser(
        "plan",
        help="what a run would train on and how ranks share it; --section.key value overrides its keys",
    )
    plan.add_argument("--config", required=True, type=Path, help="such as configs/demo.yaml")
    plan.add_argument("--world-size", required=True, type=int, metavar="N", help="number of ranks")
    plan.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="write one JSON line a step and rank: stage, step, rank, ids",
    )
    plan.set_defaults(call=_plan, settings=[])

    export = verbs.add_parser("export", help="write a run's model as a sentence-transformers folder")
    export.add_argument("run_folder", metavar="RUN", type=Path)
    export.add_argument("output", metavar="OUT", type=Path)
    export.set_defaults(call=_export)

    report = verbs.add_parser("report", help="write a run's HTML page")
    report.add_argument("run_folder", metavar="RUN", type=Path)
    report.set_defaults(call=_report)

    config = verbs.add_parser("config", help="what recipes may hold").add_subparsers(
        dest="config_verb", required=True
    )
    schema = config.add_parser("schema", help="write the JSON schemas by which editors check recipes")
    schema.add_argument(
        "--output", type=Path, metavar="DIR", help="default: beside the recipes that ship with mgh-ds"
    )
    schema.set_defaults(call=_config_schema)

    doctor = verbs.add_parser(
        "doctor", help="say what is installed, what a run would use and what is missing"
    )
    doctor.set_defaults(call=_doctor)
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="data_verb", required=True)
    on_error = {
        "choices": ("skip", "stop"),
        "default": "skip",
        "help": "what to do at a bad row (default: skip)",
    }

    validate = verbs.add_parser("validate", help="check every row of a file or store")
    validate.add_argument("path", type=Path)
    validate.add_argument("--format", choices=FORMATS, default="mgh")
    validate.add_argument("--on-error", **on_error)  # type: ignore[arg-type]
    validate.set_defaults(call=_validate)

    convert = verbs.add_parser("convert", help="convert files of a known format into a store")
    convert.add_argument("input", type=Path)
    convert.add_argument("output", type=Path)
    convert.add_argument("--format", choices=FORMATS, required=True)
    convert.add_argument("--dataset", help="name kept as each record's source (default: the file's name)")
    convert.add_argument("--instruction", help="the task in a sentence, where the rows do not carry it")
    convert.add_argument("--subtype", choices=SUBTYPES, help="shape of the texts, where the rows do not say")
    convert.add_argument("--language", default="en", help="BCP-47 tag (default: en)")
    convert.add_argument("--on-error", **on_error)  # type: ignore[arg-type]
    convert.set_defaults(call=_convert)

    stats = verbs.add_parser("stats", help="describe a store or JSONL file")
    stats.add_argument("path", type=Path)
    stats.set_defaults(call=_stats)


def _add_eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, help="Hugging Face name, model folder or a run's export folder"
    )
    parser.add_argument(
        "--tasks", required=True, nargs="+", metavar="TASK", help="MTEB names, such as STS17 SciFact"
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        help="JSON file for all tasks, or a folder for one each; a Markdown table is put beside",
    )
    parser.add_argument(
        "--pooling", choices=POOLINGS, help="default: what the model was saved with, else ata"
    )
    transforms = ("identity", "log1p", "visible_mean")
    parser.add_argument(
        "--column-transform", choices=transforms, help="for ata; default: as saved, else identity"
    )
    parser.add_argument("--data-dir", type=Path, help="folder with one folder a task; default: the hub")
    parser.add_argument(
        "--languages", nargs="+", metavar="CODE", help="ISO 639-3, for tasks from the hub (default: eng)"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-length", type=int, help="tokens a text is cut to; default: the model's own")
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    parser.add_argument(
        "--instructions", action="store_true", help="read texts under their task's instruction"
    )
    parser.set_defaults(call=_eval)


def _add_ablate(parser: argparse.ArgumentParser) -> None:
    parser.description = "Trains every recipe with every pooling and seed, scores all, and writes one table."
    parser.epilog = "--section.key value overrides a key of every recipe, such as --training.steps 100"
    parser.add_argument("configs", metavar="CONFIG", nargs="+", type=Path, help="recipes, a row each")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs a recipe (default: 3)")
    parser.add_argument("--poolings", nargs="+", choices=POOLINGS, default=["ata"], help="default: ata")
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        default=["STS17", "SICK-R", "SciFact"],
        help="MTEB names (default: STS17 SICK-R SciFact); added ones are scored on runs made before",
    )
    parser.add_argument("--data-dir", type=Path, help="folder with one folder a task; default: the hub")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/ablation"),
        help="parent of the runs (default: runs/ablation)",
    )
    parser.add_argument("--ranks", type=int, default=1, help="processes that train a run (default: 1)")
    parser.set_defaults(call=_ablate, settings=[])


def _add_synth(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="synth_verb", required=True)

    plan = verbs.add_parser(
        "plan", help="check a recipe and freeze it; --section.key value overrides its keys"
    )
    plan.add_argument("--config", required=True, type=Path, help="such as configs/synth-scripted.yaml")
    plan.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="new folder for all that follows"
    )
    plan.set_defaults(call=_synth_plan, settings=[])

    run = verbs.add_parser("run", help="work through shards; --engine.key value says how to drive the engine")
    run.add_argument("folder", metavar="DIR", type=Path)
    which = run.add_mutually_exclusive_group(required=True)
    which.add_argument("--shard", type=int, action="append", metavar="I", help="may be given several times")
    which.add_argument("--all", action="store_true", help="every shard that no other worker holds")
    run.set_defaults(call=_synth_run, settings=[])

    status = verbs.add_parser("status", help="how far it is; may be asked while workers run")
    status.add_argument("folder", metavar="DIR", type=Path)
    status.set_defaults(call=_synth_status)

    merge = verbs.add_parser("merge", help="make one data set; --filters.key value judges the answers anew")
    merge.add_argument("folder", metavar="DIR", type=Path)
    merge.add_argument(
        "--drop", nargs="+", default=[], choices=FINDINGS, help="leave out what the audit found"
    )
    merge.add_argument("--partial", action="store_true", help="merge what there is of unfinished shards")
    merge.set_defaults(call=_synth_merge, settings=[])

    audit = verbs.add_parser(
        "audit", help="measure whether the levels hold, and what else a sceptic would ask"
    )
    audit.add_argument("folder", metavar="DIR", type=Path)
    audit.add_argument(
        "--embedder", default=MINILM, help=f"any model that mgh-ds eval takes (default: {MINILM})"
    )
    audit.add_argument("--pooling", choices=POOLINGS, default="mean", help="of the embedder (default: mean)")
    audit.add_argument(
        "--cross-encoder", metavar="MODEL", help="judges false negatives in the embedder's place"
    )
    audit.add_argument(
        "--alpha", type=float, default=0.95, help="share of the positive's score (default: 0.95)"
    )
    audit.add_argument("--sample", type=int, metavar="N", help="embed at most N records (default: all)")
    audit.set_defaults(call=_synth_audit)


def _validate(**options: object) -> None:
    from mgh_ds.records.commands import validate_command

    validate_command(**options)  # type: ignore[arg-type]


def _convert(**options: object) -> None:
    from mgh_ds.records.commands import convert_command

    convert_command(**options)  # type: ignore[arg-type]


def _stats(path: Path) -> None:
    from mgh_ds.records.commands import stats_command

    stats_command(path)


def _eval(**options: object) -> None:
    from mgh_ds.evaluation.commands import eval_command

    eval_command(**options)  # type: ignore[arg-type]


def _ablate(**options: object) -> None:
    from mgh_ds.ablation.commands import ablate_command

    ablate_command(**options)  # type: ignore[arg-type]


def _synth_plan(config: Path, output: Path, settings: list[str]) -> None:
    from mgh_ds.synthesis.commands import plan_command

    plan_command(["--config", str(config), *settings], output)


def _synth_run(folder: Path, shard: list[int] | None, settings: list[str], **_all: bool) -> None:
    from mgh_ds.synthesis.commands import run_command

    run_command(folder, shard, settings)


def _synth_status(folder: Path) -> None:
    from mgh_ds.synthesis.commands import status_command

    status_command(folder)


def _synth_merge(folder: Path, drop: list[str], partial: bool, settings: list[str]) -> None:
    from mgh_ds.synthesis.commands import merge_command

    merge_command(folder, drop, partial, settings)


def _synth_audit(
    folder: Path, embedder: str, pooling: Any, cross_encoder: str | None, alpha: float, sample: int | None
) -> None:
    from mgh_ds.synthesis.commands import audit_command, open_merged_plan

    open_merged_plan(folder)  # before minutes go into models
    from mgh_ds.evaluation.judges import cross_encoder_judge, embedder_judge

    embed = embedder_judge(embedder, pooling)
    score_pairs = cross_encoder_judge(cross_encoder) if cross_encoder else None
    audit_command(folder, embed, embedder, score_pairs, cross_encoder, alpha=alpha, sample=sample)


def _plan(config: Path, world_size: int, export: Path | None, settings: list[str]) -> None:
    from mgh_ds.common.config import load_config
    from mgh_ds.curriculum.commands import plan_command
    from mgh_ds.records.mixture import Mixture
    from mgh_ds.records.store import open_or_convert
    from mgh_ds.training.config import RunConfig
    from mgh_ds.training.run_folder import RunFolder

    run = load_config(RunConfig, ["--config", str(config), *settings])
    cache = RunFolder(run.path).store_cache
    records = Mixture([open_or_convert(path, cache) for path in run.data.train])
    plan_command(records, run.curriculum, run.plan_arguments(), world_size, export)


def _export(run_folder: Path, output: Path) -> None:
    from mgh_ds.training.export import export_run

    export_run(run_folder, output)
    print(f"model: {output}")


def _report(run_folder: Path) -> None:
    from mgh_ds.report.commands import report_command

    report_command(run_folder)


def _config_schema(output: Path | None) -> None:
    from mgh_ds.recipes import schema_command

    schema_command(output)


def _doctor() -> None:
    from mgh_ds.doctor import doctor

    doctor()


if __name__ == "__main__":
    main()
