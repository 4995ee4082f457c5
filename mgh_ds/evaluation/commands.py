"""`mgh-ds eval`: score one model on MTEB tasks, from the hub or from local folders."""

import argparse
from pathlib import Path
from typing import get_args

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.results import EvaluationResult, joined
from mgh_ds.model.config import ColumnTransform, PoolingMethod

# Only light imports here: the command line reads this module even to print its help.


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
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
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
    causal: bool = False,
    data_dir: Path | None = None,
    languages: list[str] | None = None,
    batch_size: int = 64,
    max_length: int | None = None,
    device: str | None = None,
    instructions: bool = False,
) -> None:
    """Scores a model on MTEB tasks, prints a table, and writes it as Markdown beside the scores.

    Args:
        model: a Hugging Face name, a model folder, or a run's `export` folder.
        tasks: MTEB task names, such as STS17 SICK-R SciFact.
        output: the JSON file to write; the Markdown file has its name with the ending .md. Or a folder, which
            gets a JSON file a task and `results.md`; tasks that it already holds are not scored again.
        pooling: how token states become one vector; without it, as the model was saved (else ATA).
        column_transform: for ATA, what is applied to a head's column sums; without it, as saved.
        causal: let a decoder's tokens see only what precedes them; without it, as saved, else the whole text.
        data_dir: a folder with one folder a task (docs/evaluation.md); without it, data come from the hub.
        languages: ISO 639-3 codes; hub tasks keep the subsets wholly in these languages. Without it, eng.
        batch_size: texts encoded at once.
        max_length: tokens a text is cut to; without it, the model's own.
        device: cpu or cuda; without it, cuda where there is one.
        instructions: read texts under their task's instruction, for models trained with instructions.
    """
    together = output.suffix == ".json"
    if output.is_dir() if together else output.is_file():
        raise MghError(f"--output {output} must name a file that ends in .json, or a folder")
    if data_dir is not None and languages not in (None, ["eng"]):
        raise MghError("--languages is for tasks from the hub: local folders hold the English subsets")
    if batch_size < 1:
        raise MghError(f"--batch-size is {batch_size}; it must be at least 1")
    try:
        # found out before minutes of work, not after
        (output.parent if together else output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MghError(f"--output {output}: cannot make its folder ({error.strerror})") from None

    from rich.console import Console

    from mgh_ds.evaluation.containment import contained_mteb
    from mgh_ds.evaluation.run import evaluate
    from mgh_ds.evaluation.tables import results_markdown, results_table
    from mgh_ds.model.encoder import Encoder

    names = list(dict.fromkeys(tasks))
    parts = {output: names} if together else {output / f"{name}.json": [name] for name in names}
    with contained_mteb():
        # All data are read before the first text is encoded.
        missing = {
            path: load_tasks(part, data_dir, languages or ["eng"])
            for path, part in parts.items()
            if together or not path.exists()
        }
        if missing:
            encoder = Encoder.from_pretrained(
                model,
                pooling,
                column_transform=column_transform,
                bidirectional=False if causal else None,
                max_length=max_length,
                device=device,
            )
            if causal and not encoder.causal:
                raise MghError(f"--causal is for decoders, and {model} is none")
        for path, part in missing.items():
            evaluate(
                encoder, part, label=model, output=path, batch_size=batch_size, instructions=instructions
            )
    result = joined({path: EvaluationResult.read(path) for path in parts})
    _check_same(
        result, output, label=model, pooling=pooling, max_length=max_length, instructions=instructions
    )
    table = output.with_suffix(".md") if together else output / "results.md"
    files.write_text(table, results_markdown(result))
    Console().print(results_table(result))


def _check_same(result: EvaluationResult, output: Path, **asked: object) -> None:
    """Refuses results that `output` already held where they were made in another way than asked for."""
    for name, wanted in asked.items():
        found = getattr(result, name, result.settings.get(name))
        if wanted is not None and wanted != found:
            raise MghError(
                f"{output} holds results with {name} {found}, asked for was {wanted}: name another folder"
            )


def load_tasks(names: list[str], data_dir: Path | None, languages: list[str]) -> list:
    """The named MTEB tasks: from the folder `data_dir`, or their subsets in `languages` from the hub.

    Raises MghError for no name, one that is unknown, and data that are missing.
    """
    if not names:
        raise MghError("--tasks is empty: name at least one MTEB task, such as STS17")
    if data_dir is not None:
        from mgh_ds.evaluation.local_tasks import local_tasks

        return local_tasks(names, data_dir)
    from mgh_ds.evaluation.hub_tasks import hub_tasks

    return hub_tasks(names, languages)
