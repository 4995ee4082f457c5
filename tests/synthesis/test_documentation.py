"""docs/synthesis.md names what the code knows."""

import re
from pathlib import Path

from mgh_ds.synthesis.decisions import DROPPABLE

PAGE = Path("docs/synthesis.md").read_text(encoding="utf-8")


def test_every_reason_for_refusing_an_answer_is_explained() -> None:
    code = "".join(Path("mgh_ds/synthesis", name).read_text() for name in ("answers.py", "merge.py"))
    reasons = set(re.findall(r'Refused\(f?"(\w+?)(?:_\{[^}]*\})?[:"]', code)) | DROPPABLE.keys()
    assert len(reasons) > 12
    assert [reason for reason in sorted(reasons) if f"`{reason}" not in PAGE] == []


def test_every_recipe_is_listed() -> None:
    assert [path for path in Path("configs").glob("synth-*.yaml") if f"`{path}`" not in PAGE] == []
