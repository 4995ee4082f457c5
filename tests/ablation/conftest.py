"""Two small recipes, two small tasks, and a trainer that exports a model with random weights in no time."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mgh_ds.ablation import work
from mgh_ds.cli import main as cli
from mgh_ds.model.tiny import make_tiny_model
from tests.evaluation.conftest import PAIRS, write_jsonl

SAMPLE = Path("mgh_ds/records/sample/train.jsonl").resolve()
BASE = Path("configs/base/ablation.yaml").resolve()
RECIPE = """\
extends: {base}
name: {order}
curriculum: {{stages: {order}, homogeneous: false}}
model: {{name_or_path: tiny-random/bert, lora: {{rank: 2}}, max_length: 64}}
data: {{train: ["{sample}"]}}
training: {{steps: 3, global_batch: 8, micro_batch: 8, warmup_steps: 0, learning_rate: 0.01}}
"""
TRAINER = """\
import json, pathlib, shutil, sys, time
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
name, output = options["--name"], pathlib.Path(options["--folder"])
with (output / "started").open("a") as file:
    file.write(name + "\\n")
if (output / f"hang-{name}").exists():
    (output / "hanging").touch()
    time.sleep(600)
if (output / f"fail-{name}").exists():
    sys.exit("loading\\nerror: no luck today\\nTraceback, never mind")
shutil.copytree(pathlib.Path(__file__).parent / ("model-" + options["--seed"]), output / name / "export")
"""


@pytest.fixture
def recipes(tmp_path: Path) -> list[str]:
    """Two recipes that differ in their order."""
    paths = []
    for order in ("random", "coarse_to_fine"):
        path = tmp_path / f"{order}.yaml"
        path.write_text(RECIPE.format(base=BASE, order=order, sample=SAMPLE))
        paths.append(str(path))
    return paths


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """STS17 and SICK-R with a few pairs each."""
    rows = [{"sentence1": a, "sentence2": b, "score": score} for a, b, score in PAIRS]
    write_jsonl(tmp_path / "data" / "STS17-en" / "test.jsonl", rows)
    write_jsonl(tmp_path / "data" / "SICK-R" / "test.jsonl", rows[:7])
    return tmp_path / "data"


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for mgh_ds.train: notes that it was started, then hangs, fails or exports the model of
    the seed, as files in the output folder ask."""
    folder = tmp_path_factory.mktemp("trainer")
    for seed in range(3):
        make_tiny_model("bert", folder / f"model-{seed}", seed=seed + 1)
    (folder / "stand_in.py").write_text(TRAINER)
    return folder / "stand_in.py"


class Grid:
    """`mgh-ds ablate` over the two recipes into one folder."""

    def __init__(self, recipes: list[str], data_dir: Path, output: Path) -> None:
        self.recipes, self.data_dir, self.output = recipes, data_dir, output
        self.held_out = SAMPLE.with_name("held_out.jsonl")
        output.mkdir()

    def ablate(self, *options: str, tasks: tuple[str, ...] = ("STS17",), seeds: int = 2) -> None:
        where = ["--data-dir", str(self.data_dir), "--output", str(self.output)]
        cli(["ablate", *self.recipes, "--seeds", str(seeds), "--tasks", *tasks, *where, *options])

    @property
    def started(self) -> list[str]:
        """The cells whose training was begun, in order."""
        path = self.output / "started"
        return path.read_text().split() if path.exists() else []

    def scores(self, cell: str) -> dict[str, float]:
        content = json.loads((self.output / cell / "ablation-scores.json").read_text())
        return {task: found["score"] for task, found in content["tasks"].items()}


@pytest.fixture
def grid(
    recipes: list[str], data_dir: Path, trainer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Grid:
    """The grid with the stand-in as its trainer."""
    monkeypatch.setattr(work, "TRAINER", trainer.stem)
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{trainer.parent}{os.pathsep}{path}" if path else str(trainer.parent))
    return Grid(recipes, data_dir, tmp_path / "out")


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a call that must end with exit code 1 says."""

    def refusal(call: Callable[..., None], *arguments: str, **options: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            call(*arguments, **options)
        assert isinstance(stopped.value.code, str), "exit code 1, with a message"
        return stopped.value.code + capsys.readouterr().err

    return refusal
