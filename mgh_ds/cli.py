"""`mgh-ds <verb>`: the jobs that need no launcher. Each verb parses, imports its room and calls one
function."""

import argparse
import os
import sys
from pathlib import Path

from mgh_ds import __version__
from mgh_ds.errors import MghError

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

POOLINGS = ("ata", "mean", "last", "cls", "weighted_mean")
FORMATS = ("mgh", "flagembedding", "sentence-transformers", "llm2vec", "nli", "sts")
SUBTYPES = ("long-long", "long-short", "short-long", "short-short", "paraphrase", "sts")


def main(arguments: list[str] | None = None) -> None:
    """Runs one verb; a problem that the user can mend ends in one line and exit code 1."""
    options = vars(build_parser().parse_args(arguments))
    run = options.pop("run")
    try:
        run(**{name: value for name, value in options.items() if name not in ("verb", "data_verb")})
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

    export = verbs.add_parser("export", help="write a run's model as a sentence-transformers folder")
    export.add_argument("run_folder", metavar="RUN", type=Path)
    export.add_argument("output", metavar="OUT", type=Path)
    export.set_defaults(run=_export)

    report = verbs.add_parser("report", help="write a run's HTML page")
    report.add_argument("run_folder", metavar="RUN", type=Path)
    report.set_defaults(run=_report)

    doctor = verbs.add_parser(
        "doctor", help="say what is installed, what a run would use and what is missing"
    )
    doctor.set_defaults(run=_doctor)
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
    validate.set_defaults(run=_validate)

    convert = verbs.add_parser("convert", help="convert files of a known format into a store")
    convert.add_argument("input", type=Path)
    convert.add_argument("output", type=Path)
    convert.add_argument("--format", choices=FORMATS, required=True)
    convert.add_argument("--dataset", help="name kept as each record's source (default: the file's name)")
    convert.add_argument("--instruction", help="the task in a sentence, where the rows do not carry it")
    convert.add_argument("--subtype", choices=SUBTYPES, help="shape of the texts, where the rows do not say")
    convert.add_argument("--language", default="en", help="BCP-47 tag (default: en)")
    convert.add_argument("--on-error", **on_error)  # type: ignore[arg-type]
    convert.set_defaults(run=_convert)

    stats = verbs.add_parser("stats", help="describe a store or JSONL file")
    stats.add_argument("path", type=Path)
    stats.set_defaults(run=_stats)


def _add_eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, help="Hugging Face name, model folder or a run's export folder"
    )
    parser.add_argument(
        "--tasks", required=True, nargs="+", metavar="TASK", help="MTEB names, such as STS17 SciFact"
    )
    parser.add_argument(
        "--output", required=True, type=Path, help="JSON file; a Markdown table is put beside it"
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
    parser.set_defaults(run=_eval)


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


def _export(run_folder: Path, output: Path) -> None:
    from mgh_ds.training.export import export_run

    export_run(run_folder, output)
    print(f"model: {output}")


def _report(run_folder: Path) -> None:
    from mgh_ds.report.commands import report_command

    report_command(run_folder)


def _doctor() -> None:
    from mgh_ds.doctor import doctor

    doctor()


if __name__ == "__main__":
    main()
