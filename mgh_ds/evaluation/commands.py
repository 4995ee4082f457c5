"""`mgh-ds eval`: score one model on MTEB tasks, from the hub or from local folders."""

from pathlib import Path

from mgh_ds import files
from mgh_ds.errors import MghError
from mgh_ds.model.config import ColumnTransform, PoolingMethod

# Only light imports here: the command line reads this module even to print its help.


def eval_command(
    model: str,
    tasks: list[str],
    output: Path,
    pooling: PoolingMethod | None = None,
    column_transform: ColumnTransform | None = None,
    data_dir: Path | None = None,
    languages: list[str] | None = None,
    batch_size: int = 64,
    max_length: int | None = None,
    device: str | None = None,
    instructions: bool = False,
) -> None:
    """Scores a model on MTEB tasks, prints a table, and writes it as Markdown beside the JSON file OUTPUT.

    Args:
        model: a Hugging Face name, a model folder, or a run's `export` folder.
        tasks: MTEB task names, such as STS17 SICK-R SciFact.
        output: the JSON file to write; the Markdown file has its name with the ending .md.
        pooling: how token states become one vector; without it, as the model was saved (else ATA).
        column_transform: for ATA, what is applied to a head's column sums; without it, as saved.
        data_dir: a folder with one folder a task (docs/evaluation.md); without it, data come from the hub.
        languages: ISO 639-3 codes; hub tasks keep the subsets wholly in these languages. Without it, eng.
        batch_size: texts encoded at once.
        max_length: tokens a text is cut to; without it, the model's own.
        device: cpu or cuda; without it, cuda where there is one.
        instructions: read texts under their task's instruction, for models trained with instructions.
    """
    if output.suffix != ".json" or output.is_dir():
        raise MghError(
            f"--output {output} must name a file that ends in .json; a .md file is written beside it"
        )
    if data_dir is not None and languages not in (None, ["eng"]):
        raise MghError("--languages is for tasks from the hub: local folders hold the English subsets")
    if batch_size < 1:
        raise MghError(f"--batch-size is {batch_size}; it must be at least 1")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)  # found out before minutes of work, not after
    except OSError as error:
        raise MghError(f"--output {output}: cannot make its folder ({error.strerror})") from None

    from rich.console import Console

    from mgh_ds.evaluation.containment import contained_mteb
    from mgh_ds.evaluation.run import evaluate
    from mgh_ds.evaluation.tables import results_markdown, results_table
    from mgh_ds.model.encoder import Encoder

    with contained_mteb():
        chosen = _tasks(list(dict.fromkeys(tasks)), data_dir, languages or ["eng"])
        encoder = Encoder.from_pretrained(
            model, pooling, column_transform=column_transform, max_length=max_length, device=device
        )
        result = evaluate(
            encoder, chosen, label=model, output=output, batch_size=batch_size, instructions=instructions
        )
    files.write_text(output.with_suffix(".md"), results_markdown(result))
    Console().print(results_table(result))


def _tasks(names: list[str], data_dir: Path | None, languages: list[str]) -> list:
    if not names:
        raise MghError("--tasks is empty: name at least one MTEB task, such as STS17")
    if data_dir is not None:
        from mgh_ds.evaluation.local_tasks import local_tasks

        return local_tasks(names, data_dir)
    from mgh_ds.evaluation.hub_tasks import hub_tasks

    return hub_tasks(names, languages)
