"""The examples of docs/mining.md: its Python runs, and its command lines are ones."""

import re
import shlex
from pathlib import Path

import pytest

from mgh_ds import cli
from tests.records.examples import write_jsonl

PAGE = Path("docs/mining.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (mgh-ds .*?)(?:\s+#.*)?$", PAGE, re.MULTILINE)
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_python_runs_as_it_is_written(model, tmp_path, monkeypatch):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"id": i, "text": f"text {i}"} for i in range(5)])
    monkeypatch.chdir(tmp_path)
    cli.main(["encode", str(corpus), "VECTORS", "--model", model, "--device", "cpu"])
    assert PYTHON
    for example in PYTHON:
        names = {}
        exec(compile(example, "docs/mining.md", "exec"), names)
        assert names["part"].shape[0] == 5


@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_lines_have_options_that_there_are(line):
    for command in line.split(" && "):
        words = shlex.split(command)[1:]
        verb = next(name for name in (" ".join(words[:2]), words[0]) if name in cli.VERBS)
        cli.build_parser(verb).parse_args(words)
