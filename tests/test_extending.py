"""Every example of docs/extending.md, as it is written: all of them applied to one copy of the package, and
each used from it as the page says."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mgh_ds.records.store import Store

PAGE = Path("docs/extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
BLOCK = re.compile(r"(?:^(?:New file|In) `(\S+)`[^\n]*:\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(section: str) -> list[tuple[str, str, str]]:
    """File (or ""), language and text of each block."""
    return BLOCK.findall(SECTIONS[section])


def patched(content: str, diff: str) -> str:
    """The content after a diff, each of whose parts must fit in one place alone."""
    for part in diff.split("@@\n"):
        lines = [(line[:1], line[1:] + "\n") for line in part.splitlines()]
        assert {sign for sign, _ in lines} <= {" ", "+", "-"}, part
        old, new = ("".join(line for sign, line in lines if sign != other) for other in "+-")
        assert content.count(old) == 1, f"does not fit in one place:\n{old}"
        content = content.replace(old, new)
    return content


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages with what all sections add."""
    house = tmp_path_factory.mktemp("house")
    for package in ("mgh_ds", "kernels/ata_attention"):
        shutil.copytree(package, house / package, ignore=shutil.ignore_patterns("__pycache__"))
    for section in SECTIONS:
        for file, language, text in blocks(section):
            path = house / file
            if file and language == "diff":
                path.write_text(patched(path.read_text(encoding="utf-8"), text), encoding="utf-8")
            elif file:
                assert not path.exists(), f"{file} is not new"
                path.write_text(text, encoding="utf-8")
    return house


def use(house: Path, folder: Path, section: str) -> str:
    """Runs the section's commands, or its lines of Python, in `folder`; what they print."""
    ((language, text),) = [(language, text) for file, language, text in blocks(section) if not file]
    python = Path(sys.executable)
    words = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [str(python), "-c"]}[language]
    environment = os.environ | {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{house}{os.pathsep}{house / 'kernels'}",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    done = subprocess.run(
        [*words, text], cwd=folder, env=environment, text=True, capture_output=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_are_eight() -> None:
    words = ("loss", "logger", "pooling", "order", "backbone", "task subtype", "engine", "converter")
    assert list(SECTIONS) == [f"An {word}" if word[0] in "oe" else f"A {word}" for word in words]


def test_a_loss_trains_and_its_statistic_is_in_the_metrics(house: Path, tmp_path: Path) -> None:
    use(house, tmp_path, "A loss")
    metrics = map(json.loads, (tmp_path / "runs" / "margin" / "metrics.jsonl").open())
    steps = [entry for entry in metrics if entry["kind"] == "step"]
    assert [entry["step"] for entry in steps] == [1, 2, 3]
    for entry in steps:
        assert 0 < entry["loss"] < math.inf
        assert 0 < entry["statistics"]["violated_share"] <= 1
        assert "masked_share" not in entry["statistics"], "InfoNCE's"


def test_a_logger_hears_what_the_metrics_say(house: Path, tmp_path: Path) -> None:
    said = use(house, tmp_path, "A logger").splitlines()
    metrics = map(json.loads, (tmp_path / "runs" / "table" / "metrics.jsonl").open())
    losses = [f"{entry['step']},train/loss,{entry['loss']}" for entry in metrics if entry["kind"] == "step"]
    assert len(losses) == 3
    assert said[-3:] == losses


def test_a_pooling_embeds(house: Path, tmp_path: Path) -> None:
    assert use(house, tmp_path, "A pooling") == "anchors (2, 64)\n"


def test_an_order_is_planned(house: Path, tmp_path: Path) -> None:
    rows = [line.split("│")[1:4] for line in use(house, tmp_path, "An order").splitlines() if "level" in line]
    stages = [tuple(cell.strip() for cell in row) for row in rows if len(row) == 3]
    assert stages == [("levels 2, 3", "0", "2"), ("level 4", "2", "4")]


def test_a_backbone_is_bidirectional_or_causal_and_may_be_packed(house: Path, tmp_path: Path) -> None:
    assert use(house, tmp_path, "A backbone").split("\n") == ["True True", "True False", ""]


def test_a_task_subtype_is_asked_for_and_merged(house: Path, tmp_path: Path) -> None:
    said = use(house, tmp_path, "A task subtype")
    (count,) = re.findall(r"subtypes +│ headline (\d+) +│", said)
    assert int(count) >= 40
    units = pq.ParquetFile(tmp_path / "runs" / "headlines" / "merged" / "units.parquet").read().to_pylist()
    assert {unit["subtype"] for unit in units} == {"headline"}


def test_an_engine_answers(house: Path, tmp_path: Path) -> None:
    assert "40 of 40 (100.0 %)" in use(house, tmp_path, "An engine")
    parts = list((tmp_path / "runs" / "one-by-one" / "work" / "samples").rglob("part-*.parquet"))
    rows = [row for part in parts for row in pq.ParquetFile(part).read().to_pylist()]
    assert len(rows) == 40
    assert {row["engine"] for row in rows} == {"one-by-one 1"}


def test_a_converter_makes_a_store(house: Path, tmp_path: Path) -> None:
    use(house, tmp_path, "A converter")
    (record,) = Store.open(tmp_path / "data" / "faq")
    assert (record.query, record.positive) == ("Is it open on Sunday?", "From ten to four.")
    assert [(negative.text, negative.level) for negative in record.negatives] == [("By tram.", None)]
    assert record.task.instruction == "Given a question, retrieve its answer"
