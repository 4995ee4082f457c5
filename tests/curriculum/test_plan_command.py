"""`mgh-ds plan` prints what a run would train on, and exports exactly that."""

import json
from pathlib import Path

import pytest

from mgh_ds.cli import main
from mgh_ds.common.config import load_config
from mgh_ds.curriculum import TrainingPlan, commands
from mgh_ds.curriculum.balance import measure_balance
from mgh_ds.curriculum.plan import EMPTY
from mgh_ds.records.store import Store
from mgh_ds.training.config import RunConfig


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    stages = "[{levels: [1], share: 0.15}, {levels: [2, 3], share: 0.4}, {levels: [4], share: 0.45}]"
    changes = {
        "folder": str(tmp_path),
        "training.micro_batch": "4",
        "training.steps": "54",
        "data.train": "[sample:train]",
        "curriculum.stages": stages,
        "curriculum.negatives": "2",
    }
    words = [word for key, value in changes.items() for word in (f"--{key}", value)]
    return ["--config", "configs/demo.yaml", *words]


def command(arguments: list[str], *more: str) -> None:
    main(["plan", *arguments, *more])


def test_what_is_printed_is_the_plan(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    command(arguments, "--world-size", "4")
    printed = capsys.readouterr().out
    (store,) = (tmp_path / "demo" / "data").iterdir()
    config = load_config(RunConfig, arguments)
    plan = TrainingPlan(Store.open(store).index(), config.curriculum, **config.plan_arguments())
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines()]
    assert ["levels 2, 3", "8", "22", "360", "1.83", "0"] in rows
    assert ["rank", "2 micro-batches a step on each of 4"] in rows
    values = {row[0]: row[1] for row in rows if len(row) == 2}
    hashes = dict(line.split(": ") for line in printed.splitlines() if line.startswith("hash of"))
    assert hashes["hash of the plan"] == plan.fingerprint(hashes["hash of the data"])
    balance = measure_balance(plan, plan, 4)
    assert values["heaviest rank / mean rank"].startswith(f"{balance.assigned.mean:.4f} ")


def test_the_shares_of_a_mixture_are_printed(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    sources = "[{path: sample:train, weight: 3}, {path: sample:held_out, weight: 1, max_epochs: 2}]"
    command(arguments, "--world-size", "2", "--data.train", sources)
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines()]
    found = {row[0]: row[1:] for row in rows if len(row) == 7 and row[0].startswith("sample:")}
    config = load_config(RunConfig, [*arguments, "--data.train", sources])
    steps = {name: int(row[1]) for name, row in found.items()}
    assert sum(steps.values()) == config.training.steps
    epoch = -(-int(found["sample:held_out"][3]) // config.training.global_batch)
    assert steps["sample:held_out"] == min(2 * epoch, round(config.training.steps / 4))
    assert found["sample:train"][0] == "3"
    assert found["sample:held_out"][-1] == "2"
    assert ["levels 2, 3, sample:train"] in [row[:1] for row in rows]


def test_every_local_batch_is_exported(arguments: list[str], tmp_path: Path) -> None:
    file = tmp_path / "shares.jsonl"
    command(arguments, "--world-size", "4", "--export", str(file))
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    (path,) = (tmp_path / "demo" / "data").iterdir()
    store = Store.open(path)
    config = load_config(RunConfig, arguments)
    plan = TrainingPlan(store.index(), config.curriculum, **config.plan_arguments())
    assert [(line["step"], line["rank"]) for line in lines] == [
        (step, rank) for step in range(plan.steps) for rank in range(4)
    ]
    assert any(len(line["ids"]) < 8 for line in lines), "no batch is short: nothing is left out here"
    for line in lines:
        assert list(line) == ["stage", "step", "rank", "ids"]
        batch = plan.local_batch(line["step"], 4, line["rank"])
        assert line["ids"] == store.ids(batch[batch != EMPTY])
        assert line["stage"] == plan.stage(line["step"]).index


def test_an_export_that_fails_leaves_the_old_file(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "shares.jsonl"
    file.write_text("old")
    whole, steps = commands.tqdm, []

    def interrupted(of_steps: range, **options: object) -> object:
        for step in whole(of_steps, **options):
            steps.append(step)
            if step == 3:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(commands, "tqdm", interrupted)
    with pytest.raises(SystemExit):
        command(arguments, "--world-size", "1", "--export", str(file))
    assert steps == [0, 1, 2, 3]
    assert file.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo", "shares.jsonl"]


@pytest.mark.parametrize(
    ("world_size", "message"),
    [("16", "training.micro_batch 2 would fit"), ("64", "use fewer ranks"), ("0", "must be 1 or more")],
)
def test_a_number_of_ranks_that_does_not_fit_is_refused(
    arguments: list[str], world_size: str, message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        command(arguments, "--world-size", world_size)


def test_keys_of_the_recipe_may_be_overridden_and_others_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command(arguments, "--world-size", "1", "--curriculum.stages", "fine_to_coarse")
    printed = capsys.readouterr().out
    assert printed.index("level 4") < printed.index("levels 2, 3") < printed.index("level 1")
    with pytest.raises(SystemExit, match="did you mean"):
        command(arguments, "--world-size", "1", "--curriculum.stagess", "all")


def test_records_that_the_loss_learns_nothing_from_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="distill learns from a score for the positive and for each"):
        command(arguments, "--world-size", "1", "--training.loss.name", "distill")
