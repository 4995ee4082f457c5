"""The package as its users get it: both wheels in an environment of their own, used in an empty folder."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mgh_ds.distributed.group import free_port
from tests.evaluation.conftest import PAIRS, write_jsonl

pytestmark = [pytest.mark.system, pytest.mark.timeout(600), pytest.mark.xdist_group("wheel")]

ROOT = Path.cwd()
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "mgh_ds", "kernels")
SMALL = (
    *("--model.use_instructions", "false", "--model.max_length", "32"),
    *("--training.global_batch", "8", "--training.micro_batch", "4"),
    *("--training.steps", "3", "--training.warmup_steps", "0", "--training.checkpoint_every", "3"),
)
Run = Callable[..., str]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with both wheels, and with the third-party packages of the one that runs this."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:  # a copy, so that nothing of an earlier build gets into the wheels
        source, target = ROOT / name, folder / "source" / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(
                source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
            )
        else:
            shutil.copy(source, target)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheels, home = folder / "wheels", folder / "environment"
    build = [*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels)]
    if int(importlib.metadata.version("setuptools").split(".")[0]) >= 77:
        build.append("--no-build-isolation")
    subprocess.run([*build, str(folder / "source"), str(folder / "source" / "kernels")], check=True)

    venv.create(home, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(home)}))
    # A path alone: files ending in .pth that lie there, such as an editable install's, are not read.
    (site / "third_party.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    install = ["install", "--no-deps", "--no-index", *map(str, sorted(wheels.glob("*.whl")))]
    subprocess.run([*pip, "--python", str(home / "bin" / "python"), *install], check=True)
    return home


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder."""
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def run(environment: Path, user: Path) -> Run:
    """Runs a program of the environment in the user's folder; returns what it printed."""
    variables = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")
    }
    variables["PATH"] = f"{environment / 'bin'}{os.pathsep}{variables['PATH']}"

    def run(program: str, *words: str) -> str:
        done = subprocess.run(
            [str(environment / "bin" / program), *words],
            cwd=user,
            env=variables,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, f"{program} {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def trained(run: Run, user: Path) -> Path:
    """The folder of a run that `mgh-ds train` made of a recipe in the package, by its name."""
    said = run("mgh-ds", "train", "--config", "tiny-mistral", *SMALL)
    assert "report: runs/tiny-mistral/report.html" in said
    assert "positive above negatives of level 4" in said
    return user / "runs" / "tiny-mistral"


def data_dir(user: Path) -> str:
    """A folder with a small STS17."""
    rows = [{"sentence1": a, "sentence2": b, "score": score} for a, b, score in PAIRS]
    write_jsonl(user / "data" / "STS17-en" / "test.jsonl", rows)
    return "data"


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [entry["loss"] for entry in lines if entry["kind"] == "step"]


def test_what_runs_is_what_the_wheels_brought(run: Run, environment: Path) -> None:
    code = "import mgh_ds.cli, mgh_ds.train, ata_attention; print(mgh_ds.__file__, ata_attention.__file__)"
    for path in run("python", "-c", code).split():
        assert Path(path).is_relative_to(environment / "lib"), path
    assert run("mgh-ds", "--version") == f"mgh-ds {importlib.metadata.version('mgh-ds')}\n"


def test_two_ranks_train_as_one_does(run: Run, trained: Path, user: Path) -> None:
    assert run("mgh-ds", "plan", "--config", "tiny-mistral", "--world-size", "2", *SMALL)
    launcher = [
        "-m",
        "deepspeed.launcher.runner",
        "--num_accelerators",
        "2",
        "--master_port",
        str(free_port()),
    ]
    recipe = ["--config", "tiny-mistral", "--name", "two", "--data.held_out", "null", *SMALL]
    run("python", *launcher, "--module", "mgh_ds.train", *recipe)
    two = user / "runs" / "two"
    assert json.loads((two / "run.json").read_text())["world_size"] == 2
    assert len(losses(two)) == 3
    # The same batches and the same dropout: float32 sums in another order are all that differs.
    assert losses(two) == pytest.approx(losses(trained), rel=1e-4)


def test_a_run_is_scored_reported_and_exported(run: Run, trained: Path, user: Path) -> None:
    tasks = ["--tasks", "STS17", "--data-dir", data_dir(user)]
    run("mgh-ds", "eval", "--model", "runs/tiny-mistral/export", *tasks, "--output", "results.json")
    assert json.loads((user / "results.json").read_text())["tasks"].keys() == {"STS17"}
    page = (trained / "report.html").read_text()
    run("mgh-ds", "report", "runs/tiny-mistral")
    assert (trained / "report.html").read_text() == page
    run("mgh-ds", "export", "runs/tiny-mistral", "model")
    weights = "model.safetensors"
    assert (user / "model" / weights).read_bytes() == (trained / "export" / weights).read_bytes()


def test_a_grid_is_trained_and_scored(run: Run, user: Path) -> None:
    model = ["--model.name_or_path", "tiny-random/bert", "--model.dtype", "auto"]
    tiny = [*model, "--data.train", "[sample:train]", *SMALL]
    grid = ["--seeds", "1", "--tasks", "STS17", "--data-dir", data_dir(user), "--output", "grid"]
    said = run("mgh-ds", "ablate", "ablation-random", *grid, *tiny)
    assert "| random | 6 | 1 |" in said
    trained = user / "grid" / "ablation-random-ata-0"
    assert (trained / "export" / "model.safetensors").is_file()
    settled = yaml.safe_load((trained / "config.yaml").read_text())["model"]["dtype"]
    assert settled in ("bfloat16", "float32"), "what auto chose is on record"


def test_records_are_written_by_the_scripted_engine(run: Run, user: Path) -> None:
    recipe = ["--config", "synth-scripted", "--samples.budget.samples", "40"]
    run("mgh-ds", "synth", "plan", *recipe, "--output", "plan")
    run("mgh-ds", "synth", "run", "plan", "--all")
    assert run("mgh-ds", "synth", "status", "plan")
    run("mgh-ds", "synth", "merge", "plan")
    assert "accepted" in run("mgh-ds", "data", "validate", "plan/merged")
    assert (user / "plan" / "merged" / "manifest.json").is_file()
