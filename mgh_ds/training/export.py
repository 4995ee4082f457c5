"""From a run folder to a model folder that plain sentence-transformers loads."""

from pathlib import Path

from mgh_ds.common import files
from mgh_ds.common.config import load_config
from mgh_ds.common.errors import MghError
from mgh_ds.common.score_tables import COMPARISON_HEADER, comparisons, markdown_table
from mgh_ds.curriculum.config import order_of
from mgh_ds.model.embedder import EmbeddingModel, build_model
from mgh_ds.model.export import export
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.training import checkpoint
from mgh_ds.training.config import RunConfig
from mgh_ds.training.run_folder import RunFolder
from mgh_ds.training.state import trainable, weight_shapes
from mgh_ds.training.tensor_file import open_file


def load_run(run: Path) -> tuple[EmbeddingModel, Tokenizer, RunConfig, int]:
    """Model, tokenizer and configuration of a run at its newest checkpoint, and that checkpoint's step.

    Raises MghError if the folder is not a run, or has no complete checkpoint yet.
    """
    if not (run / "config.yaml").is_file():
        raise MghError(f"{run} is not a run folder: it holds no config.yaml")
    config = load_config(RunConfig, ["--config", str(run / "config.yaml")])
    found = checkpoint.newest(RunFolder(run).checkpoints)
    if found is None:
        raise MghError(f"{run} has no complete checkpoint to export yet")
    path, manifest = found
    model, tokenizer = build_model(config.model, seed=config.seed)
    weights, parameters = open_file(path / checkpoint.WEIGHTS), trainable(model)
    if weights.shapes != weight_shapes(parameters):
        raise MghError(
            f"{path / checkpoint.WEIGHTS} does not fit the model that {run / 'config.yaml'} describes"
        )
    for name, parameter in parameters.items():
        parameter.data.copy_(weights.read(name))
    return model.eval(), tokenizer, config, int(manifest["step"])


def export_run(run: Path, output: Path, *, replace: bool = False) -> None:
    """Writes the model of a run, adapters merged, to the folder `output`, with a model card."""
    model, tokenizer, config, step = load_run(run)
    export(model, tokenizer, output, card=model_card(config, step, run), replace=replace)


def model_card(config: RunConfig, step: int, run: Path) -> str:
    """The exported folder's README.md: what the model is, how it was trained and what it scored."""
    training, pooling = config.training, config.model.pooling
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "tags: [sentence-transformers, feature-extraction, sentence-similarity, mgh-ds]",
        f"base_model: {config.model.name_or_path}",
        "---",
        f"# {config.name}",
        "",
        f"A text-embedding model: `{config.model.name_or_path}` with {pooling.method} pooling,",
        f"trained by mgh-ds for {step} of {training.steps} steps",
        f"with global batches of {training.global_batch} records,",
        f"curriculum {_curriculum(config)}, loss {_loss(config)}.",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer  # ATA pooling needs `mgh_ds` installed",
        "",
        'model = SentenceTransformer("this folder")',
        'embeddings = model.encode(["a text"])',
        "```",
        "",
        "sentence-transformers 6 and later import `mgh_ds` only with `trust_remote_code=True`;",
        "version 5 needs no flag.",
        *_score_lines(run),
    ]
    return "\n".join(lines) + "\n"


def _curriculum(config: RunConfig) -> str:
    stages = config.curriculum.stages
    if order := order_of(stages):
        return f"`{order}`"
    return "of levels " + ", then ".join(" and ".join(map(str, stage.levels)) for stage in stages)


def _loss(config: RunConfig) -> str:
    values = config.training.loss.model_dump(exclude={"name"})
    return f"`{config.training.loss.name}` ({', '.join(f'{key} {value}' for key, value in values.items())})"


def _score_lines(run: Path) -> list[str]:
    folder = RunFolder(run)
    if not (folder.evaluation("before").exists() and folder.evaluation("after").exists()):
        return []
    before, after = (files.read_json(folder.evaluation(label)) for label in ("before", "after"))
    if not all(part in result for result in (before, after) for part in ("tasks", "levels")):
        raise MghError(f"{folder.evaluation('after').parent} holds no complete scores: score the run again")
    rows = [row.cells() for row in comparisons(before, after)]
    return ["", "## Held-out records", "", "Scores times 100.", "", markdown_table(COMPARISON_HEADER, rows)]
