"""Evaluation results as tables, for files and for terminals. Scores are shown times 100."""

from collections.abc import Sequence

from rich.table import Table

from mgh_ds.common.score_tables import COMPARISON_HEADER, change, comparisons, markdown_table, metric_name
from mgh_ds.evaluation.results import EvaluationResult
from mgh_ds.model.weights import MINILM_SHA256

PUBLISHED = {
    "STS17": 87.59,
    "SICK-R": 77.58,
    "SciFact": 64.51,
    "XQuADRetrieval": 94.36,
    "Banking77Classification": 80.04,
}
"""What MTEB publishes for sentence-transformers/all-MiniLM-L6-v2 (mean pooling, 256 tokens, English subsets).

Source: the leaderboard's data (https://github.com/embeddings-benchmark/results, mteb 1.12.75);
SciFact from its table.
"""


RESULT_TEXTS = 2  # columns before the figures


def published(result: EvaluationResult) -> dict[str, float]:
    """The published figures that `result` can be held against: those of the same model and settings. A result
    that says which weights it is of must be of the published ones."""
    weights = result.fingerprint.get("weights")
    comparable = (
        (not weights or weights.get("model.safetensors") == MINILM_SHA256)
        and result.model.rstrip("/").endswith("all-MiniLM-L6-v2")
        and result.pooling == "mean"
        and result.settings.get("max_length") == 256
        and not result.settings.get("instructions")
    )
    return {task: PUBLISHED[task] for task in result.tasks if task in PUBLISHED} if comparable else {}


def results_table(result: EvaluationResult) -> Table:
    """One row a task, for the terminal."""
    title = f"{result.model}, {result.pooling} pooling"
    return _rich(title, *_results_cells(result), text_columns=RESULT_TEXTS)


def results_markdown(result: EvaluationResult) -> str:
    """The same as Markdown, with what the figures depend on."""
    settings = result.settings
    lines = [
        f"# {result.model}",
        "",
        f"Pooling {result.pooling}, at most {settings.get('max_length')} tokens, "
        f"instructions {'on' if settings.get('instructions') else 'off'}; "
        + ", ".join(f"{name} {version}" for name, version in settings.get("versions", {}).items())
        + ".",
        "",
        markdown_table(*_results_cells(result), text_columns=RESULT_TEXTS),
        *_prompt_lines(result),
    ]
    return "\n".join(lines) + "\n"


def comparison_table(before: EvaluationResult, after: EvaluationResult) -> Table:
    """Before, after and change: a row a task, then a row a negative level, for the terminal."""
    rows = comparisons(vars(before), vars(after))
    return _rich(None, COMPARISON_HEADER, [row.cells() for row in rows], text_columns=1)


def _results_cells(result: EvaluationResult) -> tuple[list[str], list[list[str]]]:
    references = published(result)
    header = ["task", "metric", "score", *(["published", "difference"] if references else [])]
    rows = []
    for name, task in result.tasks.items():
        subsets = [subset for subset in task.get("subsets", []) if subset != "default"]
        score = 100 * task["score"]
        title = f"{name} ({', '.join(subsets)})" if subsets else name
        row = [title, metric_name(task["metric"]), f"{score:.2f}"]
        if references:
            reference = references.get(name)
            row += ["–", "–"] if reference is None else [f"{reference:.2f}", change(score - reference)]
        rows.append(row)
    return header, rows


def _prompt_lines(result: EvaluationResult) -> list[str]:
    """What the texts of each task were read under, where instructions were asked for or the model has a
    prompt of its own."""
    prompt = result.settings.get("prompt")
    lines = ["", f"Where a text has no other prompt, it has the model's own: “{prompt}”."] if prompt else []
    if not result.settings.get("instructions"):
        return lines
    lines += ["", "Prompts:", ""]
    for name, task in result.tasks.items():
        found = task.get("prompts")
        if found is None:
            lines.append(f"- {name}: not known")
        elif found["source"] == "none":
            lines.append(f"- {name}: none; neither mgh-ds nor mteb has one")
        elif found["source"] == "records":
            lines.append(f"- {name}: each record's own")
        else:
            origin = "mteb" if found["source"] == "mteb" else "mgh-ds"
            sides = {"queries": found["query"], "documents": found["document"]}
            words = [f"{side} “{text}”" if text else f"{side} none" for side, text in sides.items()]
            lines.append(f"- {name} (from {origin}): {', '.join(words)}")
    return lines


def _rich(
    title: str | None, header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int
) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(header):
        table.add_column(column, justify="left" if number < text_columns else "right")
    for row in rows:
        table.add_row(*row)
    return table
