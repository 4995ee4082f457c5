"""From a run folder to a model folder that plain sentence-transformers loads."""

from pathlib import Path
from typing import Any

from mgh_ds.common import files
from mgh_ds.common.config import load_config
from mgh_ds.common.errors import MghError
from mgh_ds.common.score_tables import COMPARISON_HEADER, comparisons, markdown_table
from mgh_ds.curriculum.config import order_of
from mgh_ds.losses.settings import LossSettings, MatryoshkaSettings, WeightedSumSettings
from mgh_ds.model.card import metadata, usage
from mgh_ds.model.embedder import EmbeddingModel
from mgh_ds.model.export import export, why_ours
from mgh_ds.model.fingerprint import Fingerprint
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.records.instructions import instruction_for
from mgh_ds.training import checkpoint
from mgh_ds.training.adapters import base_fingerprint, build_run_model
from mgh_ds.training.choice import Choice, choose
from mgh_ds.training.config import RunConfig
from mgh_ds.training.evaluations import evaluation_lines, label_of
from mgh_ds.training.interpolation import between
from mgh_ds.training.objectives import MntpSettings
from mgh_ds.training.run_folder import RunFolder
from mgh_ds.training.state import trainable, weight_shapes
from mgh_ds.training.tensor_file import open_file


def load_run(
    run: Path, which: str | None = None, interpolate: float | None = None
) -> tuple[EmbeddingModel, Tokenizer, RunConfig, Choice]:
    """Model, tokenizer and configuration of a run at one of its checkpoints: "best" by the recipe's metric,
    "newest", or the number of a step; None: the best where the recipe names a metric, else the newest.

    With `interpolate` α below 1 the weights are (1 − α) times those that training began with and α times the
    run's (mgh_ds.training.interpolation); None: the recipe's `evaluation.interpolate`.

    Raises MghError if the folder is not a run, has no such checkpoint, or the backbone is another now than
    the one that it was trained on, and for an α that is not from 0 to 1.
    """
    if interpolate is not None and not 0 <= interpolate <= 1:
        raise MghError(f"--interpolate is {interpolate:g}; it must be from 0, the backbone, to 1, the run")
    if not (run / "config.yaml").is_file():
        raise MghError(f"{run} is not a run folder: it holds no config.yaml")
    config = load_config(RunConfig, ["--config", str(run / "config.yaml")])
    choice = choose(run, config.evaluation.metric, which)
    base = base_fingerprint(config.model)
    _check_backbone(choice, config, base)
    model, tokenizer = build_run_model(config.model, base, seed=config.seed)
    share = _share(config, interpolate)
    weights, parameters = open_file(choice.path / checkpoint.WEIGHTS), trainable(model)
    if weights.shapes != weight_shapes(parameters):
        raise MghError(
            f"{choice.path / checkpoint.WEIGHTS} does not fit the model that {run / 'config.yaml'} describes"
        )
    for name, parameter in parameters.items():
        parameter.data.copy_(between(parameter.data, weights.read(name), share, name))
    return model.eval(), tokenizer, config, choice


def _share(config: RunConfig, interpolate: float | None) -> float:
    return config.evaluation.interpolate if interpolate is None else interpolate


def _check_backbone(choice: Choice, config: RunConfig, base: Fingerprint) -> None:
    """Raises MghError where the checkpoint would be laid over another backbone than its own. What the run was
    told to accept when it went on is accepted here."""
    name = config.model.name_or_path
    if words := checkpoint.lacks_backbone(choice.path, choice.manifest):
        print(words)
        return
    found = checkpoint.backbone_changes(choice.manifest, base, config.accept_changes)
    if found:
        raise MghError(
            f"{name} is not the backbone that {choice.path} was trained on; differing: "
            f"{'; '.join(map(str, found))}. Put back the files that the run began with"
        )


def export_run(
    run: Path,
    output: Path,
    which: str | None = None,
    *,
    dimensions: int | None = None,
    interpolate: float | None = None,
    query_instruction: str | None = None,
    replace: bool = False,
    onnx: bool = False,
    int8: bool = False,
) -> Choice:
    """Writes the model of a run, adapters merged, to the folder `output`, with a model card; which of its
    checkpoints, and what `interpolate` is, as for `load_run`. Of an embedding it keeps the first
    `dimensions`, None: all. `query_instruction` is what sentence-transformers' `encode_query` reads texts
    under. `onnx` and `int8` are as for `export`. Returns what was taken. Raises MghError for more dimensions
    than there are, and for an instruction that the model would leave out."""
    model, tokenizer, config, choice = load_run(run, which, interpolate)
    if query_instruction and not tokenizer.use_instructions:
        raise MghError(
            f"{run} was trained with model.use_instructions: false, so that its model would leave "
            "--query-instruction out: export it without"
        )
    model.cut_to(dimensions)
    card = model_card(config, choice, run, interpolate, dim=model.dim, reason=why_ours(model, tokenizer))
    prompts = {name: tokenizer.prefix(text) for name, text in instructions(config).items()}
    if query_instruction:
        prompts["query"] = tokenizer.prefix(query_instruction)
    export(
        model,
        tokenizer,
        output,
        card=card,
        prompts=prompts,
        replace=replace,
        onnx=onnx,
        int8=int8,
    )
    return choice


def instructions(config: RunConfig) -> dict[str, str]:
    """What the run's evaluation tasks are read under, by the names at which mteb looks for prompts: the
    task's own where both sides are told, else that of its queries."""
    sides = {
        task: (instruction_for(task), instruction_for(task, "document")) for task in config.evaluation.tasks
    }
    return {
        task if query == document else f"{task}-query": query
        for task, (query, document) in sides.items()
        if query is not None
    }


def model_card(
    config: RunConfig,
    choice: Choice,
    run: Path,
    interpolate: float | None = None,
    *,
    dim: int,
    reason: str | None,
) -> str:
    """The exported folder's README.md: what the model is, how it was trained and what it scored, which is
    known of the weights that the run scored alone. `interpolate` is as for `load_run`, `dim` the length of an
    embedding, `reason` what `why_ours` says."""
    training, pooling = config.training, config.model.pooling
    share = _share(config, interpolate)
    are_scored = share == config.evaluation.interpolate
    lines = [
        *metadata(config.model.name_or_path),
        f"# {config.name}",
        "",
        f"A text-embedding model: `{config.model.name_or_path}`{_adapters(config)}",
        f"with {pooling.method} pooling,",
        f"trained by mgh-ds for {choice.step} of {training.steps} steps ({choice.words})",
        f"with global batches of {training.global_batch} records,",
        f"{_objective(config)}.",
        *([] if share == 1 else [f"The weights lie between its own ({share:g}) and the backbone's."]),
        *(
            []
            if are_scored
            else [f"No scores stand here: the run took them at {config.evaluation.interpolate:g}."]
        ),
        "",
        f"Embeddings have {dim} dimensions and unit length, to be compared by their cosine;",
        f"texts are cut to {config.model.max_length} tokens.",
        "",
        *usage(reason),
        *(_score_lines(RunFolder(run), choice.step, training.steps) if are_scored else []),
    ]
    return "\n".join(lines) + "\n"


def _adapters(config: RunConfig) -> str:
    names = ", ".join(f"`{name}`" for name in config.model.adapters)
    return f" (with the adapters of {names})" if names else ""


def _objective(config: RunConfig) -> str:
    objective = config.training.objective
    if isinstance(objective, MntpSettings):
        return (
            f"by masked next-token prediction of {100 * objective.mask_share:g} % of the tokens: adapted to "
            "attention in both directions, and meant to be trained on for embeddings"
        )
    losses = dict.fromkeys(map(_loss, config.stage_losses()))  # of stages that share one, it is named once
    guide = config.training.guide
    guided = "" if guide is None else f", with false negatives masked by `{guide.name_or_path}`"
    return f"curriculum {_curriculum(config)}, loss {', then '.join(losses)}{guided}"


def _curriculum(config: RunConfig) -> str:
    stages = config.curriculum.stages
    if order := order_of(stages):
        return f"`{order}`"
    return "of levels " + ", then ".join(" and ".join(map(str, stage.levels)) for stage in stages)


def _loss(loss: LossSettings) -> str:
    if isinstance(loss, WeightedSumSettings):
        return " + ".join(f"{term.weight:g} × {_loss(term.loss)}" for term in loss.terms)
    if isinstance(loss, MatryoshkaSettings):
        return f"{_loss(loss.loss)} at the widths {', '.join(map(str, loss.dims))}"
    values = loss.model_dump(exclude={"name"})
    return f"`{loss.name}` ({', '.join(f'{key} {value}' for key, value in values.items())})"


def scores_of(folder: RunFolder, step: int, last_step: int) -> dict[str, Any] | None:
    """The result of the evaluation after `step` of `last_step` steps, where there is one; of runs that logged
    none, those from before and after training.

    Raises MghError for a file that holds no scores.
    """
    lines = {line["step"]: line for line in evaluation_lines(folder)}
    if "problem" in lines.get(step, {}):
        return None
    path = folder.evaluation(lines[step]["label"] if step in lines else label_of(step, last_step))
    if step not in lines and not path.exists():
        return None
    result: dict[str, Any] = files.read_json(path)
    if not all(part in result for part in ("tasks", "levels")):
        raise MghError(f"{path} holds no complete scores: score the run again")
    return result


def _score_lines(folder: RunFolder, step: int, last_step: int) -> list[str]:
    before, after = (scores_of(folder, each, last_step) for each in (0, step))
    if before is None or after is None:
        return []
    rows = [row.cells() for row in comparisons(before, after)]
    return ["", "## Scores", "", "Times 100.", "", markdown_table(COMPARISON_HEADER, rows)]
