"""`mgh-ds ablate`: what is trained and scored, and what is not done again."""

import dataclasses
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mgh_ds import Encoder
from mgh_ds.ablation import work
from mgh_ds.ablation.grid import PoolingChoice, _cell, make_grid
from mgh_ds.ablation.scores import Scores
from mgh_ds.cli import main as cli
from mgh_ds.common.config import load_config
from mgh_ds.common.errors import MghError
from mgh_ds.curriculum.config import order_of
from mgh_ds.evaluation.levels import by_level, graded_margins, order
from mgh_ds.evaluation.local_tasks import local_tasks
from mgh_ds.evaluation.run import evaluate
from mgh_ds.records.store import open_or_convert
from mgh_ds.training.config import RunConfig
from tests.ablation.conftest import Grid

CELLS = ["random-ata-0", "coarse_to_fine-ata-0", "random-ata-1", "coarse_to_fine-ata-1"]
Refusal = Callable[..., str]


def sts17(model: Path, data_dir: Path) -> float:
    result = evaluate(
        Encoder.from_pretrained(model), local_tasks(["STS17"], data_dir), label="", progress=False
    )
    return result.tasks["STS17"]["score"]


def test_every_cell_is_trained_and_scored_in_rounds(grid: Grid, trainer: Path) -> None:
    grid.ablate()
    assert grid.started == CELLS
    expected = [sts17(trainer.parent / f"model-{seed}", grid.data_dir) for seed in range(2)]
    assert expected[0] != expected[1]
    for cell in CELLS:
        assert grid.scores(cell) == {"STS17": expected[int(cell[-1])]}
    [(_, table)] = json.loads((grid.output / "ablation.json").read_text())["poolings"].items()
    assert [row["row"] for row in table["rows"]] == ["coarse_to_fine", "random"]
    for row in table["rows"]:
        assert row["scores"]["STS17"]["mean"] == pytest.approx(50 * sum(expected))
    assert table["rows"][1]["differences"]["mean"]["mean"] == 0, (
        "the stand-in's models depend on the seed alone"
    )
    text = (grid.output / "ablation.md").read_text()
    assert f"| random | 6 | 2 | {50 * sum(expected):.2f} ± " in text
    assert f"| untrained |  |  | {100 * grid.scores('untrained-ata')['STS17']:.2f} |" in text


def test_a_finished_grid_is_not_done_again_and_new_tasks_and_seeds_are_added(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid.ablate(seeds=1)
    first = {cell: (grid.output / cell / "ablation-scores.json").stat().st_ino for cell in CELLS[:2]}
    with monkeypatch.context() as patch:
        patch.setattr("mgh_ds.ablation.scoring.CellScoring.score", lambda *_: pytest.fail("scored twice"))
        grid.ablate(seeds=1)
    assert grid.started == CELLS[:2]
    assert first == {cell: (grid.output / cell / "ablation-scores.json").stat().st_ino for cell in first}

    grid.ablate(tasks=("SICK-R",), seeds=1)
    assert grid.started == CELLS[:2]
    assert all(set(grid.scores(cell)) == {"STS17", "SICK-R"} for cell in [*CELLS[:2], "untrained-ata"])
    grid.ablate(tasks=("STS17",))
    assert grid.started == CELLS
    table = json.loads((grid.output / "ablation.json").read_text())
    assert table["mean_of"] == ["STS17"], "the second seed has no SICK-R"
    assert "(1 of 2 seeds)" in (grid.output / "ablation.md").read_text()


def test_an_interrupted_grid_goes_on_where_it_stopped(grid: Grid) -> None:
    hang = grid.output / f"hang-{CELLS[2]}"
    hang.touch()
    threading.Thread(target=stop_when, args=(grid.output / "hanging",), daemon=True).start()
    with pytest.raises(SystemExit) as stopped:
        grid.ablate()
    assert stopped.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert "| random | 6 | 1 |" in (grid.output / "ablation.md").read_text(), "one round is a table already"
    assert not (grid.output / CELLS[2] / "ablation-scores.json").exists()
    hang.unlink()
    grid.ablate()
    assert grid.started == [*CELLS[:3], *CELLS[2:]]


def stop_when(path: Path) -> None:
    while not path.exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_failing_cell_is_named_and_the_others_go_on(grid: Grid, refusal: Refusal) -> None:
    (grid.output / f"fail-{CELLS[1]}").touch()
    said = refusal(grid.ablate)
    assert f"1 of 5 cells failed: {CELLS[1]}" in said
    assert f"{CELLS[1]} failed: training ended with exit code 1: no luck today" in said
    assert grid.started == CELLS
    assert not (grid.output / CELLS[1]).exists()
    (grid.output / f"fail-{CELLS[1]}").unlink()
    grid.ablate()
    assert grid.started == [*CELLS, CELLS[1]]


def test_what_was_made_otherwise_is_refused_by_name(grid: Grid, refusal: Refusal) -> None:
    grid.ablate(seeds=1)
    said = refusal(grid.ablate, "--training.steps", "4")
    assert (
        "random-ata-0 was made otherwise; differing: training.steps: 3 → 4. Choose another --output" in said
    )
    assert "untrained-ata was made otherwise; differing: model.max_length: 64 → 32" in refusal(
        grid.ablate, "--model.max_length", "32"
    )
    recipe = Path(grid.recipes[0])
    recipe.write_text(recipe.read_text().replace("homogeneous: false", "homogeneous: true"))
    said = refusal(grid.ablate)
    assert "random-ata-0 was made otherwise; differing: curriculum.homogeneous: False → True" in said
    recipe.write_text(
        recipe.read_text().replace("name: random", "name: other").replace("steps: 3", "steps: 5")
    )
    said = refusal(grid.ablate)
    assert "cannot share a table; differing: training.steps: 3 → 5" in said
    assert grid.started == CELLS[:2]


def test_another_backbone_under_the_same_name_is_refused(
    recipes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for cell in make_grid([Path(recipes[0])], ["ata"], 1, tmp_path):  # the untrained model, and a run
        scores = Scores.of(cell, "data", {"config.json": "1", "model.safetensors": "1"})
        scores.check(cell, "data", {"config.json": "1", "model.safetensors": "1"}, {})
        with pytest.raises(MghError, match=r"made otherwise; differing: backbone\.model\.safetensors: 1 → 2"):
            scores.check(cell, "data", {"config.json": "1", "model.safetensors": "2"}, {})
        assert capsys.readouterr().out == ""
        dataclasses.replace(scores, backbone={}).check(cell, "data", {"config.json": "1"}, {})
        assert f"{cell.path} does not say which files its backbone had" in capsys.readouterr().out


def test_a_cell_of_before_there_were_guides_is_as_one_without(recipes: list[str], tmp_path: Path) -> None:
    cell = make_grid([Path(recipes[0])], ["ata"], 1, tmp_path)[-1]
    scores = Scores.of(cell, "data", {"config.json": "1"})
    del scores.recipe["training"]["guide"]
    scores.check(cell, "data", {"config.json": "1"}, {})
    guided = cell.config.training.replace(guide={"name_or_path": "a"})
    other = dataclasses.replace(cell, config=cell.config.replace(training=guided))
    with pytest.raises(MghError, match=r"made otherwise; differing: training\.guide: "):
        scores.check(other, "data", {"config.json": "1"}, {})


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            ["--training.loss.name", "distill"],
            r"random: the loss distill learns from a score .*, which \d+ of \d+ records",
        ),
        (["--training.guide.name_or_path", "no/such-guide"], "random: .*no/such-guide"),
    ],
)
def test_what_a_training_would_refuse_is_refused_before_the_first_one(
    settings: list[str], complaint: str, grid: Grid
) -> None:
    with pytest.raises(SystemExit, match=complaint):
        grid.ablate(*settings)
    assert grid.started == []


def test_held_out_records_without_grades_are_refused_before_anything_is_trained(grid: Grid) -> None:
    record = json.loads(grid.held_out.read_text().splitlines()[0])
    pairs = grid.output.parent / "pairs.jsonl"
    pairs.write_text(json.dumps(record | {"negatives": []}) + "\n")
    with pytest.raises(SystemExit, match="has no graded negatives to score"):
        grid.ablate("--held-out", str(pairs))
    assert grid.started == []


def test_weights_at_another_share_of_what_was_learnt_make_another_cell(
    recipes: list[str], tmp_path: Path
) -> None:
    _, whole, half = make_grid([Path(recipes[0])], ["ata"], 1, tmp_path, interpolate=[0.5])
    scores = Scores.of(half, "data", {"config.json": "1"})
    scores.check(half, "data", {"config.json": "1"}, {})
    with pytest.raises(MghError, match=r"made otherwise; differing: .*interpolate: 0\.5 → 1\.0"):
        scores.check(whole, "data", {"config.json": "1"}, {})
    del scores.recipe["evaluation"]["interpolate"]  # a cell of before recipes could say it
    scores.check(half, "data", {"config.json": "1"}, {})


def test_a_recipe_that_says_its_own_share_has_no_second_row_for_it(
    recipes: list[str], tmp_path: Path
) -> None:
    said = ["--evaluation.interpolate", "0.5"]
    grid = make_grid([Path(recipes[0])], ["ata"], 1, tmp_path, said, interpolate=[0.5, 0.25])
    assert [cell.config.evaluation.interpolate for cell in grid[1:]] == [0.5, 0.25]


def test_the_same_data_in_other_shares_make_another_cell(recipes: list[str], tmp_path: Path) -> None:
    cell = make_grid([Path(recipes[0])], ["ata"], 1, tmp_path)[-1]
    scores = Scores.of(cell, "data", {"config.json": "1"})
    assert scores.compared()["data"] == {"train": "data"}, "as before sources could be tables"
    weighed = cell.config.data.replace(
        train=[{"path": path, "weight": 2.0} for path in cell.config.data.paths]
    )
    other = dataclasses.replace(cell, config=cell.config.replace(data=weighed))
    with pytest.raises(MghError, match=r"made otherwise; differing: data\.mixture: .*'weight': 2\.0"):
        scores.check(other, "data", {"config.json": "1"}, {})


def test_other_evaluation_data_are_refused(grid: Grid, refusal: Refusal) -> None:
    grid.ablate(seeds=1)
    file = grid.data_dir / "STS17-en" / "test.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    assert "differing: the data of STS17" in refusal(grid.ablate)


def test_mistakes_are_refused_before_anything_is_trained(
    grid: Grid, refusal: Refusal, tmp_path: Path
) -> None:
    missing = {"--data-dir": tmp_path / "nowhere", "--data.train": "[nothing.jsonl]", "--ranks": "0"}
    for option, value in missing.items():
        assert refusal(grid.ablate, option, str(value))
    assert "no local layout" in refusal(grid.ablate, tasks=("Nonesuch",))
    assert "--seed is decided by the grid" in refusal(grid.ablate, "--seed", "3")
    assert "--evaluation.metric is decided by the grid" in refusal(grid.ablate, "--evaluation.metric", "mean")
    assert "did you mean `training.steps`" in refusal(grid.ablate, "--training.step", "3")
    grid.recipes = grid.recipes[:1] * 2
    assert "two rows would be called 'random'" in refusal(grid.ablate)
    assert grid.started == []


def test_two_ablations_do_not_share_a_folder(grid: Grid, refusal: Refusal) -> None:
    from mgh_ds.ablation.work import alone_in

    with alone_in(grid.output):
        assert "another ablation is at work" in refusal(grid.ablate)


def test_the_grid_goes_round_by_round(recipes: list[str], tmp_path: Path) -> None:
    cells = make_grid([Path(path) for path in recipes], ["ata", "mean"], 2, tmp_path, ["--training.steps=9"])
    assert [cell.name for cell in cells] == [
        "untrained-ata",
        "untrained-mean",
        *(
            f"{row}-{pooling}-{seed}"
            for seed in (0, 1)
            for pooling in ("ata", "mean")
            for row in ("random", "coarse_to_fine")
        ),
    ]
    for cell in cells[2:]:
        config = cell.config
        assert (order_of(config.curriculum.stages), config.model.pooling.method, config.seed) == (
            cell.row,
            cell.pooling,
            cell.seed,
        )
        assert (config.training.steps, config.data.held_out, cell.path) == (9, None, tmp_path / cell.name)
    with pytest.raises(MghError, match="--seeds is 0"):
        make_grid([Path(recipes[0])], ["ata"], 0, tmp_path)


def test_a_cell_trained_in_earnest(recipes: list[str], data_dir: Path, tmp_path: Path) -> None:
    where = ["--data-dir", str(data_dir), "--output", str(tmp_path / "out"), "--tasks", "STS17"]
    cli(["ablate", recipes[1], "--seeds", "1", "--model.num_layers", "2", *where])
    run = tmp_path / "out" / "coarse_to_fine-ata-0"
    assert json.loads((run / "export" / "config.json").read_text())["num_hidden_layers"] == 2
    scores = json.loads((tmp_path / "out" / "ablation.json").read_text())["poolings"]["ata"]
    [row] = scores["rows"]
    assert row["scores"]["STS17"]["mean"] == pytest.approx(100 * sts17(run / "export", data_dir))
    assert row["scores"]["STS17"]["mean"] != scores["untrained"]["untrained"]["STS17"]


def test_models_are_compared_where_the_keys_that_vary_are_named(grid: Grid, refusal: Refusal) -> None:
    """A row a model, a section a treatment of ATA's weights, and held-out negatives beside the tasks."""
    one, other = map(Path, grid.recipes)
    other.write_text(
        one.read_text().replace("name: random", "name: long").replace("length: 64", "length: 80")
    )
    said = refusal(grid.ablate)
    assert "random-ata-0 and long-ata-0 cannot share a table; differing: model.max_length: 64 → 80" in said
    assert grid.started == []
    options = ["--vary", "model.max_length", "--reference", "random", "--held-out", str(grid.held_out)]
    grid.ablate(*options, "--poolings", "ata", "ata+log1p+clip", seeds=1)
    assert grid.started == [
        f"{row}-{pooling}-0" for pooling in ("ata", "ata+log1p+clip") for row in ("random", "long")
    ]
    run = json.loads((grid.output / "long-ata+log1p+clip-0" / "ablation-scores.json").read_text())
    pooling = run["recipe"]["model"]["pooling"]
    assert (pooling["method"], pooling["column_transform"], pooling["sink"]) == ("ata", "log1p", "clip")

    table = json.loads((grid.output / "ablation.json").read_text())
    assert table["mean_of"] == ["STS17"], "hard negatives are no task"
    treated = table["poolings"]["ata+log1p+clip"]
    assert [row["row"] for row in treated["rows"]] == ["random", "long"]
    assert [row["differences"]["mean"] is None for row in treated["rows"]] == [True, False]
    assert treated["untrained"].keys() == {"untrained-random", "untrained-long"}
    encoder = Encoder.from_pretrained(grid.output / "random-ata-0" / "export")
    margins = graded_margins(encoder, list(open_or_convert(grid.held_out, grid.output / "data")))
    scored = json.loads((grid.output / "random-ata-0" / "ablation-scores.json").read_text())["tasks"]
    assert scored["HardNegatives"]["levels"] == by_level(margins)
    assert scored["HardNegatives"]["score"] == by_level(margins)["4"]["accuracy"]
    assert scored["LevelOrder"]["score"] == order(margins)
    text = (grid.output / "ablation.md").read_text()
    assert (
        "| STS17 (Spearman) | HardNegatives (accuracy) | LevelOrder (Kendall's τ) | mean | difference |"
        in text
    )
    assert "place in the paper" not in text
    assert "Ranking by `mean`" not in text


def test_rows_between_the_untrained_model_and_a_trained_one_are_exported_and_not_trained(
    grid: Grid, trainer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[tuple[str, float]] = []

    def export_run(run: Path, output: Path, *, interpolate: float, replace: bool) -> None:
        assert replace
        exported.append((run.name, interpolate))
        shutil.copytree(trainer.parent / "model-2", output)

    monkeypatch.setattr(work, "export_run", export_run)
    for _ in range(2):  # started again, nothing is done again
        grid.ablate("--reference", "random", "--interpolate", "0.5", "0.25", seeds=1)
    assert grid.started == CELLS[:2]
    assert exported == [(cell, share) for cell in CELLS[:2] for share in (0.5, 0.25)]
    expected = sts17(trainer.parent / "model-2", grid.data_dir)
    assert grid.scores("random@0.25-ata-0") == {"STS17": expected}
    table = json.loads((grid.output / "ablation.json").read_text())["poolings"]["ata"]
    rows = {row["row"]: row["scores"]["STS17"]["mean"] for row in table["rows"]}
    assert list(rows)[:1] == ["random"]
    assert rows.keys() == {
        f"{row}{at}" for row in ("random", "coarse_to_fine") for at in ("", "@0.5", "@0.25")
    }
    assert rows["random@0.5"] == pytest.approx(100 * expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--interpolate", "0.5"], "--interpolate wants --reference"),
        (["--interpolate", "0.5", "1", "--reference", "random"], "--interpolate is 1; it must lie between 0"),
        (["--poolings", "men"], "no pooling is called 'men'; did you mean `mean`?"),
        (["--poolings", "ata+log2p"], "after ata+ may follow one of each: column_transform identity, "),
        (["--poolings", "ata+log1p+sqrt"], "may follow one of each"),
        (["--poolings", "mean+clip"], "may follow one of each"),
        (
            ["--poolings", "ata+clip", "--model.pooling.sink", "first"],
            "--model.pooling.sink is decided by the grid",
        ),
        (["--vary", "model.bidirektional"], "recipes have no such key"),
        (["--reference", "causal"], "the rows are coarse_to_fine, random"),
    ],
)
def test_wrong_columns_keys_and_references_are_refused(
    options: list[str], said: str, grid: Grid, refusal: Refusal
) -> None:
    assert said in refusal(grid.ablate, *options)
    assert grid.started == []


def test_what_a_recipe_does_while_it_trains_bears_on_no_cell(grid: Grid) -> None:
    """Its loggers and evaluations may be other ones; and no cell's model is chosen by scores."""
    grid.ablate(seeds=1)
    for path in map(Path, grid.recipes):
        path.write_text(path.read_text() + "logging: {loggers: [tensorboard]}\n")
    grid.ablate(seeds=1)
    assert grid.started == CELLS[:2], "nothing was done again"
    recipe = load_config(RunConfig, ["--config", str(grid.recipes[0])])
    chosen = recipe.replace(
        evaluation=recipe.evaluation.replace(every=1, tasks=["STS17"], metric="STS17", patience=1)
    )
    cell = _cell(recipe.name, PoolingChoice.parse("ata"), 0, chosen, grid.output)
    assert cell.config.evaluation == recipe.evaluation
    assert "--evaluation.metric null" in " ".join(cell.arguments)
