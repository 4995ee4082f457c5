"""The same exports under the other version of sentence-transformers, which `make test-system` puts in a
folder of its own: loaded by both, with the same vectors.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

FOLDER = Path(".venv/sentence-transformers-6").absolute()
# What an export is, and what is made of folders that this version writes.
FILES = [f"tests/model/test_{name}.py" for name in ("standard_modules", "export", "folders_of_others")]
RUN = """
import sys, pytest, sentence_transformers
assert sentence_transformers.__version__.startswith("6."), sentence_transformers.__version__
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.timeout(900)
@pytest.mark.skipif(not FOLDER.is_dir(), reason="version 6 is not here: make test-system puts it there")
def test_exports_under_version_6() -> None:
    path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = [sys.executable, "-c", RUN, *FILES, "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": path}, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
