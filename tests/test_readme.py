"""Every command in the README runs: here, in the system tests (`make demo`), in CI (`make test`), on a GPU,
or on a cluster."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path.cwd()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
HERE = [command for command in COMMANDS if not command.startswith("make") and "# needs" not in command]
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

# What the test shortens: the README trains longer, and embeds more, than a test may.
SHORTER = {
    "--training.steps 200": "--training.steps 7 --training.global_batch 4 --training.micro_batch 2",
    "synth audit runs/graded": "synth audit runs/graded --sample 24",
}


def run(command: str, folder: Path) -> str:
    for long, short in SHORTER.items():
        command = command.replace(long, short)
    finished = subprocess.run(
        shlex.split(command),
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        capture_output=True,
        timeout=280,
        check=False,
    )
    assert finished.returncode == 0, f"{command}\n{finished.stdout}{finished.stderr}"
    return finished.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the checkout's files, some NLI rows, and benchmark data in the documented layout."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("configs", "launch", "mgh_ds"):
        (folder / name).symlink_to(ROOT / name)
    subjects = ["cat", "chef", "sailor", "child", "painter", "farmer", "doctor", "pilot"]
    claims = {
        "is somewhere": "entailment",
        "is happy": "neutral",
        "has waited there since noon": "neutral",
        "is nowhere at all": "contradiction",
    }
    rows = [
        {"premise": f"A {subject} stands in a room.", "hypothesis": f"The {subject} {claim}.", "label": label}
        for subject in subjects
        for claim, label in claims.items()
    ]
    (folder / "nli.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for task in ("STS17-en", "SICK-R"):
        pairs = [
            {
                "sentence1": f"A {one} rests.",
                "sentence2": f"The {other} rests.",
                "score": float(one == other) * 4 + number / 8,
            }
            for number, (one, other) in enumerate(zip(subjects, sorted(subjects), strict=True))
        ]
        (folder / "benchmark-data" / task).mkdir(parents=True)
        (folder / "benchmark-data" / task / "test.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in pairs)
        )
    return folder


def test_the_commands_of_the_readme_run_in_its_order(folder: Path) -> None:
    here = [command for command in HERE if not about_synthesis(command)]
    assert len(here) >= 8
    for command in here:
        run(command, folder)
    assert json.loads((folder / "results" / "mine.json").read_text())["tasks"].keys() == {"STS17", "SICK-R"}

    (python,) = [text for kind, text in BLOCKS if kind == "python"]
    printed = run(
        shlex.join([sys.executable, "-c", python.replace("runs/demo/export", "models/mine")]), folder
    )
    assert printed.startswith("(2, 384) ")


def test_the_commands_of_the_readme_write_graded_data(folder: Path) -> None:
    here = [command for command in HERE if about_synthesis(command)]
    assert len(here) >= 7
    for command in here:
        run(command, folder)
    assert json.loads((folder / "runs" / "graded" / "audit" / "audit.json").read_text())["records"] >= 200


def about_synthesis(command: str) -> bool:
    return " synth " in command or "runs/graded" in command


def test_the_other_commands_run_elsewhere() -> None:
    makes = {command.split()[1] for command in COMMANDS if command.startswith("make")}
    assert makes == {"demo", "test"}
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert '"make", "demo"' in (ROOT / "tests" / "system" / "test_demo.py").read_text()
    for command in COMMANDS:
        if "# needs" in command:
            words = command.partition("#")[0]
            paths = re.findall(r"(?:configs|launch)/\S+", words)
            paths += [f"mgh_ds/configs/{name}.yaml" for name in re.findall(r"--config (\S+)", words)]
            paths += [f"mgh_ds/configs/{name}.yaml" for name in re.findall(r"train\.sbatch (\S+)", words)]
            if "# needs make vllm" in command or "# needs it" in command:
                served = (ROOT / "tests" / "system" / "test_vllm_serving.py").read_text()
                run_there = re.findall(r"readme_command\([\"'](\w+)", served)
                assert any(word in words for word in run_there), command
                continue
            assert paths, command
            assert all(list(ROOT.glob(path)) for path in paths), command
