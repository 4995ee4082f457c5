"""The table of verbs: each declares its arguments, and says in one line what it lacks."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from mgh_ds import cli
from mgh_ds.common import extras
from tests.test_architecture import imported_modules

PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
# Runs the command line as if some modules were not installed.
BLOCKED = (
    "import sys; sys.modules |= dict.fromkeys({modules!r}); from mgh_ds.{main} import main; main({words!r})"
)


def without(extra: str, *words: str, main: str = "cli") -> tuple[int, str]:
    """Code and last line of `mgh-ds WORDS` where an extra is not installed."""
    code = BLOCKED.format(modules=extras.EXTRAS[extra], words=list(words), main=main)
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_declares_its_arguments(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*name.split(), "--help"])
    assert ended.value.code == 0
    assert f"usage: mgh-ds {name}" in capsys.readouterr().out


def test_the_help_names_every_verb_and_imports_no_room() -> None:
    code = "import sys; from mgh_ds.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert all(f"\n    {name.split()[0]} " in said for name in cli.VERBS)
    loaded = {name for name in said.splitlines()[-1].split() if name.startswith("mgh_ds.")}
    assert loaded == {"mgh_ds.cli", "mgh_ds.common", "mgh_ds.common.errors", "mgh_ds.common.extras"}


@pytest.mark.parametrize("words", ["", "nonesuch", "data", "report", "report RUN --colour red"])
def test_a_verb_that_does_not_exist_or_lacks_words_is_refused(words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words.split())
    assert ended.value.code == 2


def test_a_threshold_without_a_cross_encoder_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"--alpha is for --cross-encoder MODEL"):
        cli.main(["synth", "audit", "nowhere", "--alpha", "0.9"])


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("evaluation", ["eval", "--model", "m", "--tasks", "STS17", "--output", "o.json"]),
        ("evaluation", ["ablate", "configs/ablation-random.yaml"]),
        ("synthesis", ["synth", "audit", "nowhere"]),
        ("faiss", ["data", "mine", "nowhere", "out", "--model", "m", "--index", "Flat"]),
        ("onnx", ["export", "nowhere", "out", "--onnx"]),
        ("evaluation", ["synth", "audit", "nowhere", "--cross-encoder", "m"]),
        ("datasets", ["data", "convert", "owner/name", "out", "--format", "nli"]),
    ],
)
def test_a_verb_whose_extra_is_missing_says_what_installs_it(extra: str, words: list[str]) -> None:
    code, line = without(extra, *words)
    assert code == 1
    assert line.startswith("error: ")
    assert line.endswith(f"needs more than the core: pip install 'mgh-ds[{extra}]'")


def test_an_engine_whose_extra_is_missing_says_what_installs_it(tmp_path: Path) -> None:
    words = ["--config", "configs/synth-endpoint.yaml", "--output", str(tmp_path / "plan")]
    cli.main(["synth", "plan", *words])
    code, line = without("synthesis", "synth", "run", str(tmp_path / "plan"), "--all")
    assert (code, line) == (
        1,
        "error: engine.kind: endpoint needs more than the core: pip install 'mgh-ds[synthesis]'",
    )


def test_scores_that_cannot_be_computed_are_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    for recipe, lacking in (("tiny-mistral", "evaluation"), ("demo", "evaluation,demo")):
        words = ["--config", f"configs/{recipe}.yaml", "--folder", str(tmp_path)]
        modules = [module for extra in lacking.split(",") for module in extras.EXTRAS[extra]]
        code = BLOCKED.format(modules=[*modules, "transformers"], words=words, main="train")
        done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False)
        assert done.returncode == 1
        assert done.stderr == (
            "error: data.held_out is scored through mteb, which is not installed: "
            f"pip install 'mgh-ds[{lacking}]' (--data.held_out null trains without scores)\n"
        )
        other = os.environ | {"RANK": "1", "WORLD_SIZE": "2"}
        done = subprocess.run(
            [sys.executable, "-c", code], text=True, capture_output=True, check=False, env=other
        )
        assert (done.returncode, done.stderr) == (1, ""), "rank 0 speaks for all"
    assert not list(tmp_path.iterdir())


def test_the_core_trains_and_exports_without_any_extra(tmp_path: Path) -> None:
    modules = [*(module for extra in extras.EXTRAS for module in extras.EXTRAS[extra]), "datasets"]
    small = ["--training.steps", "3", "--training.global_batch", "4", "--training.warmup_steps", "0"]
    words = ["--config", "configs/tiny-mistral.yaml", "--folder", str(tmp_path), "--data.held_out", "null"]
    code = BLOCKED.format(modules=modules, words=["train", *words, *small], main="cli")
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "tiny-mistral"
    assert f"model:  {run / 'export'}\nreport: {run / 'report.html'}" in done.stdout
    assert (run / "export" / "model.safetensors").is_file()


def test_what_is_imported_is_declared() -> None:
    """Every third-party module belongs to a package in pyproject.toml; the rooms of training and encoding
    import none of an extra's."""
    core, *others = [
        {line.split("=")[0].split(">")[0].split("[")[0].lower() for line in lines}
        for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    ]
    packages = packages_distributions() | {"vllm": ["vllm"], "ata_attention": ["ata-attention"]}
    for path in Path("mgh_ds").rglob("*.py"):
        for root in {name.split(".")[0] for name in imported_modules(path)}:
            if root in sys.stdlib_module_names or root == "mgh_ds":
                continue
            names = {name.lower().replace("_", "-") for name in packages[root]} | {root.replace("_", "-")}
            allowed = core.union(*others) if path.parts[1] in MAY_USE_EXTRAS else core
            assert names & allowed or (path.name, root) in BESIDE, f"{path} imports {root}"


MAY_USE_EXTRAS = ("ablation", "audit", "evaluation", "serving", "synthesis")
BESIDE = {
    ("sentence_transformers_module.py", "sentence_transformers"),  # imported by sentence-transformers itself
    ("gguf_file.py", "gguf"),  # asked for there by its extra
    ("hub_rows.py", "datasets"),  # asked for there by its extra
    ("faiss_index.py", "faiss"),  # asked for by mining's verb
    ("onnx_graph.py", "onnxruntime"),  # asked for there by its extra
    ("onnx_model.py", "onnxruntime"),
    ("schema.py", "pydantic_core"),  # pydantic's own
    ("weights_and_biases.py", "wandb"),  # imported where a recipe names that logger
    ("keys.py", "annotated_types"),
    ("keys.py", "pydantic_core"),
    ("recipe_help.py", "pydantic_core"),
    ("reader.py", "pydantic_core"),
    ("rows.py", "pydantic_core"),
}


def test_the_extras_known_to_the_code_are_those_of_the_package() -> None:
    declared = PROJECT["optional-dependencies"]
    assert extras.EXTRAS.keys() <= declared.keys()
    packages = packages_distributions()
    for extra, modules in extras.EXTRAS.items():
        names = {line.split("=")[0].split(">")[0].lower() for line in declared[extra]}
        for module in set(modules) - {"vllm"}:
            assert {name.lower().replace("_", "-") for name in packages[module]} & names, module


def test_recipes_name_what_ships_in_the_package() -> None:
    for path in sorted(Path("configs").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        assert "configs/deepspeed" not in text
        assert "records/sample" not in text
        assert yaml.safe_load(text)
