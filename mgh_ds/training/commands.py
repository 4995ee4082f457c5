"""`mgh-ds plan | export`: a run before it is started, and its model after."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mgh_ds.common.errors import MghError
from mgh_ds.common.extras import need


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds plan`."""
    parser.add_argument("--config", required=True, metavar="RECIPE", help="a file, or a name such as demo")
    parser.add_argument("--world-size", required=True, type=int, metavar="N", help="number of ranks")
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="write one JSON line a step and rank: stage, step, rank, ids",
    )
    parser.set_defaults(call=plan_command)


def plan_command(config: str, world_size: int, export: Path | None, settings: Sequence[str]) -> None:
    """Prints what a run would train on, and how evenly its ranks would be loaded. Loads no model.

    Raises MghError for a wrong recipe, missing records, records that the loss learns nothing
    from, and a plan that cannot be made.
    """
    from mgh_ds.common.config import load_config
    from mgh_ds.curriculum import Sources, TrainingPlan, commands
    from mgh_ds.records.mixture import Mixture
    from mgh_ds.training.config import RunConfig
    from mgh_ds.training.data import open_training_data
    from mgh_ds.training.needs import check_recipe
    from mgh_ds.training.run_folder import RunFolder

    run = load_config(RunConfig, ["--config", config, *settings])
    cache = RunFolder(run.path).store_cache
    records = Mixture([open_training_data(run, path, cache) for path in run.data.paths])

    def check(plan: TrainingPlan) -> None:
        for remark in check_recipe(run, plan):
            print(remark)

    arguments = run.plan_arguments() | {"sources": Sources(run.data.train, records.sizes)}
    commands.plan_command(records, run.curriculum, arguments, world_size, export, check)


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds export`."""
    parser.add_argument(
        "run_folder",
        metavar="RUN",
        type=Path,
        help="a run's folder; or another model: a name, folder or GGUF file",
    )
    parser.add_argument("output", metavar="OUT", type=Path)
    parser.add_argument(
        "--checkpoint",
        metavar="best|newest|STEP",
        help="default: the best where the recipe has an evaluation.metric, else the newest",
    )
    parser.add_argument(
        "--dimensions",
        metavar="D",
        type=int,
        help="of an embedding that the model keeps, the first ones, as training.loss matryoshka has trained "
        "them; default: all",
    )
    parser.add_argument(
        "--interpolate",
        metavar="A",
        type=float,
        help="weights between those that training began with (0) and the run's (1): what lies between keeps "
        "more of what the backbone could do; default: the recipe's evaluation.interpolate",
    )
    parser.add_argument(
        "--query-instruction",
        metavar="TEXT",
        help="what encode_query of sentence-transformers reads queries under; default: nothing",
    )
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="write onnx/model.onnx too, checked with onnxruntime against torch",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="with --onnx: also onnx/model_qint8.onnx, its linear layers quantised to 8 bits",
    )
    parser.set_defaults(call=export_command)


def export_command(
    run_folder: Path,
    output: Path,
    checkpoint: str | None = None,
    dimensions: int | None = None,
    interpolate: float | None = None,
    query_instruction: str | None = None,
    onnx: bool = False,
    int8: bool = False,
) -> None:
    """Writes the model of a run's checkpoint, or another model, to the new folder `output`.

    Raises MghError for options of a run where `run_folder` is none, and `int8` without `onnx`.
    """
    if int8 and not onnx:
        raise MghError("--int8 quantises the ONNX graph: ask for --onnx as well")
    if onnx:
        need("onnx", "--onnx")
    if (run_folder / "config.yaml").is_file() or (run_folder.is_dir() and not _is_model(run_folder)):
        from mgh_ds.training.export import export_run

        choice = export_run(
            run_folder,
            output,
            checkpoint,
            dimensions=dimensions,
            interpolate=interpolate,
            query_instruction=query_instruction,
            onnx=onnx,
            int8=int8,
        )
        print(f"exported is {choice.words}")
    else:
        if not run_folder.exists() and run_folder.parts[:-1] and run_folder.parent.is_dir():
            raise MghError(f"{run_folder} does not exist: {run_folder.parent} has none of that name")
        of_runs = {
            "--checkpoint": checkpoint,
            "--interpolate": interpolate,
            "--query-instruction": query_instruction,
        }
        given = [name for name, value in of_runs.items() if value is not None]
        if given:
            raise MghError(f"{given[0]} is for runs, and {run_folder} is no run folder")
        from mgh_ds.model.encoder import Encoder

        Encoder.from_pretrained(run_folder, dimensions=dimensions, device="cpu").save(
            output, onnx=onnx, int8=int8
        )
    print(f"model: {output}")
    if onnx:
        print(f"graph: {output / 'onnx'}; how it agrees with torch: {output / 'README.md'}")


def _is_model(folder: Path) -> bool:
    """Whether a folder holds a model itself, of transformers or a GGUF file."""
    from mgh_ds.model.gguf_folder import find_gguf

    return (folder / "config.json").is_file() or find_gguf(folder) is not None
