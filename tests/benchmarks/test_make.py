"""`make gpu`, with stand-ins for all that it runs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = (
    "Makefile",
    "pyproject.toml",
    "kernels/pyproject.toml",
    "requirements/gpu.lock",
    "requirements/benchmarks.txt",
)


@pytest.mark.parametrize(
    "failing", ["benchmarks.kernel", "tests/kernels tests/model", "test_compilation", None]
)
def test_a_failure_skips_nothing_and_is_told_in_the_end(tmp_path, failing):
    for name in NEEDED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("ready", "peers"):  # newer than what they are made of
        (tmp_path / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / ".venv" / name).touch()
    scripts = {
        "python": f'echo "$*" >> log\ncase "$*" in *"{failing}"*) exit 3;; esac',
        "nvidia-smi": "echo GPU 0: one",
    }
    for name, script in scripts.items():
        path = tmp_path / ".venv" / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path / '.venv' / 'bin'}:{os.environ['PATH']}"}
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        environment.pop(name, None)
    command = ["make", "gpu", "MINUTES=2"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ended.returncode != 0) is (failing is not None), ended.stderr
    first, *others = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert first == "-m benchmarks.kernel --minutes 2"
    assert [line.startswith("-m pytest tests/kernels") for line in others] == [True, True]
