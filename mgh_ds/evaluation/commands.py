"""`mgh-ds eval`: score one model on MTEB tasks, from the hub or from local folders."""

import argparse
from pathlib import Path
from typing import get_args

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.results import EvaluationResult, joined
from mgh_ds.model.arguments import add_backend_argument
from mgh_ds.model.config import Backend, ColumnTransform, PoolingMethod, SinkTreatment

# Only light imports here: the command line reads this module even to print its help.

DEFAULT_LANGUAGES = ["eng"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds eval`."""
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
        "--pooling",
        choices=get_args(PoolingMethod),
        help="default: what the model was saved with, else ata",
    )
    parser.add_argument(
        "--column-transform",
        choices=get_args(ColumnTransform),
        help="for ata; default: as saved, else identity",
    )
    parser.add_argument(
        "--sink",
        choices=get_args(SinkTreatment),
        help="for ata, what is done about tokens that swallow the attention; default: as saved, else keep",
    )
    parser.add_argument(
        "--clip-multiple",
        type=float,
        help="for --sink clip, times the mean weight; default: as saved, else 2",
    )
    parser.add_argument(
        "--causal",
        action="store_true",
        help="let a decoder's tokens see only what precedes them; default: as saved, else not",
    )
    parser.add_argument("--data-dir", type=Path, help="folder with one folder a task; default: the hub")
    parser.add_argument(
        "--languages", nargs="+", metavar="CODE", help="ISO 639-3, for tasks from the hub (default: eng)"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-length", type=int, help="tokens a text is cut to; default: the model's own")
    parser.add_argument(
        "--dimensions",
        type=int,
        help="of an embedding that are kept, the first ones; default: as saved, else all",
    )
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    add_backend_argument(parser)
    parser.add_argument(
        "--instructions", action="store_true", help="read texts under their task's instruction"
    )
    parser.set_defaults(call=eval_command)


def eval_command(
    model: str,
    tasks: list[str],
    output: Path,
    pooling: PoolingMethod | None = None,
    column_transform: ColumnTransform | None = None,
    sink: SinkTreatment | None = None,
    clip_multiple: float | None = None,
    causal: bool = False,
    data_dir: Path | None = None,
    languages: list[str] | None = None,
    batch_size: int = 64,
    max_length: int | None = None,
    dimensions: int | None = None,
    device: str | None = None,
    backend: Backend = "torch",
    instructions: bool = False,
) -> None:
    """Scores a model on MTEB tasks, prints a table, and writes it as Markdown beside the scores.

    Args:
        model: a Hugging Face name, a model folder, or a run's `export` folder.
        tasks: MTEB task names, such as STS17 SICK-R SciFact.
        output: the JSON file to write; the Markdown file has its name with the ending .md. Or a folder, which
            gets a JSON file a task and `results.md`; a task that it already holds is not scored again, unless
            the model's files, the task's data or prompt or a library have changed, or the file does not say
            which they were.
        pooling: how token states become one vector; without it, as the model was saved (else ATA).
        column_transform: for ATA, what is applied to a head's column sums; without it, as saved.
        sink: for ATA, what is done about tokens that swallow the attention; without it, as saved.
        clip_multiple: for `sink` clip, the largest weight, times the mean of a text; without it, as saved.
        causal: let a decoder's tokens see only what precedes them; without it, as saved, else the whole text.
        data_dir: a folder with one folder a task (docs/evaluation.md); without it, data come from the hub.
        languages: ISO 639-3 codes; hub tasks keep the subsets wholly in these languages. Without it, eng.
        batch_size: texts encoded at once.
        max_length: tokens a text is cut to; without it, the model's own.
        dimensions: of an embedding that are kept, the first ones; without it, as saved, else all.
        device: cpu or cuda; without it, cuda where there is one.
        backend: what computes the vectors; of another than torch the model's folder holds the graph.
        instructions: read texts under their task's instruction, for models trained with instructions.

    Raises MghError, before anything is encoded, for wrong arguments, a model or data that are missing, and an
    output that cannot be written or holds results of another model or other settings.
    """
    together = output.suffix == ".json"
    if output.is_dir() if together else output.is_file():
        raise MghError(f"--output {output} must name a file that ends in .json, or a folder")
    if data_dir is not None and languages not in (None, DEFAULT_LANGUAGES):
        raise MghError("--languages is for tasks from the hub: local folders hold the English subsets")
    if batch_size < 1:
        raise MghError(f"--batch-size is {batch_size}; it must be at least 1")
    files.require_writable(output.parent if together else output, f"--output {output}")

    from rich.console import Console

    from mgh_ds.evaluation.containment import contained_mteb
    from mgh_ds.evaluation.held_results import check_asked, check_unmarked, stands
    from mgh_ds.evaluation.run import evaluate, expected, require_instructions
    from mgh_ds.evaluation.tables import results_markdown, results_table
    from mgh_ds.model.encoder import Encoder
    from mgh_ds.model.fingerprint import fingerprint
    from mgh_ds.model.settings import read_settings
    from mgh_ds.model.weights import resolve_model

    names, languages = list(dict.fromkeys(tasks)), languages or DEFAULT_LANGUAGES
    parts = {output: names} if together else {output / f"{name}.json": [name] for name in names}
    held = {} if together else {path: EvaluationResult.read(path) for path in parts if path.exists()}
    # What is not given is as the model's files say, and these are in the fingerprint too.
    options = {
        "pooling": pooling,
        "column_transform": column_transform,
        "causal": causal or None,
        "max_length": max_length,
        "languages": None if languages == DEFAULT_LANGUAGES else languages,
    }
    later = {
        "sink": sink,
        "clip_multiple": clip_multiple,
        "dimensions": dimensions,
        "backend": None if backend == "torch" else backend,
    }
    check_asked(held, output, {"label": model, **options, **later, "instructions": instructions})
    # Results of before there were these options name none of them, and stand where none is given.
    given = {name: value for name, value in later.items() if value is not None}
    origin = {"weights": fingerprint(model, backend), "settings": options | given}
    if instructions:
        require_instructions(model, read_settings(resolve_model(model)).use_instructions)
    with contained_mteb():
        # All data are read before the first text is encoded.
        missing = {
            path: load_tasks(part, data_dir, languages)
            for path, part in parts.items()
            if path not in held
            or not stands(
                path, held[path], expected(described_tasks(part, data_dir, languages), origin, instructions)
            )
        }
        if missing:
            encoder = Encoder.from_pretrained(
                model,
                pooling,
                column_transform=column_transform,
                sink=sink,
                clip_multiple=clip_multiple,
                bidirectional=False if causal else None,
                max_length=max_length,
                dimensions=dimensions,
                device=device,
                backend=backend,
            )
            if causal and not encoder.causal:
                raise MghError(f"--causal is for decoders, and {model} is none")
            encoder.origin = origin
            made = {"pooling": encoder.pooling, "max_length": encoder.max_length}
            check_unmarked([held[path] for path in missing if path in held], output, made)
        for path, part in missing.items():
            evaluate(
                encoder, part, label=model, output=path, batch_size=batch_size, instructions=instructions
            )
    result = joined({path: EvaluationResult.read(path) for path in parts})
    table = output.with_suffix(".md") if together else output / "results.md"
    files.write_text(table, results_markdown(result))
    Console().print(results_table(result))


def load_tasks(names: list[str], data_dir: Path | None, languages: list[str]) -> list:
    """The named MTEB tasks: from the folder `data_dir`, or their subsets in `languages` from the hub.

    Raises MghError for no name, one that is unknown, and data that are missing.
    """
    _require_names(names)
    if data_dir is not None:
        from mgh_ds.evaluation.local_tasks import local_tasks

        return local_tasks(names, data_dir)
    from mgh_ds.evaluation.hub_tasks import hub_tasks

    return hub_tasks(names, languages)


def described_tasks(names: list[str], data_dir: Path | None, languages: list[str]) -> list:
    """The same tasks without their data, which are not asked for at the hub: enough to tell whether a result
    is theirs."""
    _require_names(names)
    if data_dir is not None:
        from mgh_ds.evaluation import local_tasks

        return local_tasks.described_tasks(names, data_dir)
    from mgh_ds.evaluation import hub_tasks

    return hub_tasks.described_tasks(names, languages)


def _require_names(names: list[str]) -> None:
    if not names:
        raise MghError("--tasks is empty: name at least one MTEB task, such as STS17")
