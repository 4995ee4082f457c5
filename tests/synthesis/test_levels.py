"""A level is one entry of `records.levels` and one row of words: a copy of the package with a fifth one works
from the plan to the audit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mgh_ds
from mgh_ds.common.errors import MghError
from mgh_ds.records.levels import LEVELS
from mgh_ds.synthesis.levels import LEVEL_OF, NEGATIVE_LEVELS, expand_marks, in_words
from tests.synthesis.recipes import SMALL

PACKAGE = Path(mgh_ds.__file__).parent
HARDEST_ROW = """    5: NegativeLevel(
        key="twin_negative",
        asymmetric="One word of the positive is another.",
        symmetric="One word of the query is another.",
        shared_words=0.9,
    ),
}
"""
# Plans, works, merges, validates and audits in the folder given, and prints what the records hold.
WALK = """
import json, sys, zlib
from pathlib import Path
import numpy as np
from mgh_ds.records.convert import convert
from mgh_ds.records.store import Store
from mgh_ds.records.validate import validate
from mgh_ds.synthesis.commands import audit_command, merge_command, plan_command, run_command

def embed(texts):
    vectors = np.zeros((len(texts), 256), np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().strip(".?").split():
            vectors[row, zlib.crc32(word.encode()) % 256] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

folder, arguments = Path(sys.argv[1]), sys.argv[2:]
plan_command(arguments, folder / "plan")
run_command(folder / "plan", None)
merge_command(folder / "plan")
audit_command(folder / "plan", embed, "words")
pairs = folder / "pairs.jsonl"
scores = (4.5, 3.9, 3.1, 2.0, 1.0, 0.5)
pairs.write_text("".join(
    json.dumps({"sentence1": "a", "sentence2": f"b{score}", "score": score}) + "\\n" for score in scores
))
convert(pairs, folder / "pairs", "sts")
store = Store.open(folder / "plan" / "merged")
print(json.dumps({
    "rejected": validate(folder / "plan" / "merged").rejected,
    "levels": sorted({tuple(n.level for n in record.negatives) for record in store}),
    "sts": sorted(n.level for n in next(iter(Store.open(folder / "pairs"))).negatives),
}))
"""


def test_every_level_has_its_words() -> None:
    assert tuple(NEGATIVE_LEVELS) == LEVELS
    assert len(LEVEL_OF) == len(LEVELS), "two levels have the same key"


def test_marks_speak_of_all_levels() -> None:
    expanded = expand_marks("[[NEGATIVES]] [[DOCUMENTS]] [[TEXTS]]\n[[SYMMETRIC LEVELS]]", "t.jinja")
    first, *lines = expanded.split("\n")
    assert first == "four five six"
    assert [line.split(":")[0] for line in lines] == [f'- "{key}"' for key in LEVEL_OF]
    assert expand_marks(expanded, "t.jinja") == expanded
    with pytest.raises(
        MghError, match=r"t\.jinja: the mark \[\[NEGATIVE\]\] .* did you mean `\[\[NEGATIVES\]\]`"
    ):
        expand_marks("[[NEGATIVE]]", "t.jinja")
    assert in_words(100) == "100"


def test_a_fifth_level_is_an_entry_and_a_row_of_words(tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "mgh_ds"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    replace(copy / "records" / "levels.py", "LEVELS = (1, 2, 3, 4)", "LEVELS = (1, 2, 3, 4, 5)")
    replace(copy / "synthesis" / "levels.py", "    ),\n}\n", "    ),\n" + HARDEST_ROW)
    process = subprocess.run(
        [sys.executable, "-P", "-c", WALK, str(tmp_path), *SMALL],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "copy")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    assert json.loads(process.stdout.splitlines()[-1]) == {
        "rejected": 0,
        "levels": [[5, 4, 3, 2, 1]],
        "sts": [1, 2, 3, 4, 5],
    }
    plan = tmp_path / "plan"
    prompt = (plan / "templates" / "samples-symmetric.jinja").read_text()
    assert '- "twin_negative": similarity 5 of 5. One word of the query is another.\n- "hard_' in prompt
    assert "All seven texts" in prompt
    assert (
        "five negatives each, one easy (level 1), three medium (2, 3 and 4),\none hard (5)"
        in (plan / "merged" / "README.md").read_text()
    )

    figures = json.loads((plan / "audit" / "audit.json").read_text())
    assert list(figures["hardness"]["positive"]["asked"]["mean"]) == ["1", "2", "3", "4", "5"]
    assert figures["hardness"]["positive"]["asked"]["tau"]["value"] > 0.9
    assert figures["hardness"]["chance"]["ordered"] == pytest.approx(1 / 120)
    assert figures["shortcut"]["chance"] == 0.2
    html, markdown = ((plan / "audit" / f"audit.{kind}").read_text() for kind in ("html", "md"))
    assert "realised 5" in html
    assert "realised 5" in markdown
    assert "Level 5 above the positive, by an embedder" in html
    assert 'class="level-1 beyond' in html or "level-1 beyond" in html.split("</style>")[1], "drawn dashed"
    assert "20 % is chance" in html
    assert "20 % is chance" in markdown


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new), encoding="utf-8")
