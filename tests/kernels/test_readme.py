"""The examples of the package's README run as they are written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = Path("kernels/README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", [0, 1])
def test_an_example_runs(number, tmp_path):
    assert len(EXAMPLES) == 2
    finished = subprocess.run(
        [sys.executable, "-c", EXAMPLES[number]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
