"""`mgh-ds synth audit` of records that no plan has written; of a plan's: tests/synthesis/test_commands.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from mgh_ds import cli
from tests.audit.test_audit import graded_records


@pytest.fixture(autouse=True)
def bag_of_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedder that nothing is loaded for."""

    def embed(texts: list[str]) -> np.ndarray:
        return np.eye(8, dtype=np.float32)[[len(text) % 8 for text in texts]]

    monkeypatch.setattr("mgh_ds.evaluation.judges.load_embedder", lambda *_: embed)


def test_records_of_a_file_are_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = graded_records(12)
    pair = records[0].model_copy(update={"id": "pair", "negatives": []})
    path = tmp_path / "mined.jsonl"
    path.write_text("".join(record.model_dump_json() + "\n" for record in [*records, pair]))
    cli.main(["synth", "audit", str(path), "--output", str(tmp_path / "audit")])
    said = capsys.readouterr().out
    assert "1 of 13 records have not a negative of each level and are left out" in said
    assert f"report: {tmp_path / 'audit' / 'audit.html'}" in said
    assert json.loads((tmp_path / "audit" / "audit.json").read_text())["records"] == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit", "mined.jsonl"]


def test_what_cannot_be_audited_is_refused_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgh_ds.evaluation.judges.load_embedder", lambda *_: pytest.fail("loaded"))
    (plan := tmp_path / "plan").mkdir()
    (plan / "plan.json").write_text("{}")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(graded_records(1)[0].model_copy(update={"negatives": []}).model_dump_json() + "\n")
    audit = tmp_path / "audit"
    for words, complaint in (
        (
            [str(pairs)],
            r"pairs\.jsonl is no plan's folder; for records, say where the audit goes: --output DIR",
        ),
        ([str(pairs), "--output", str(audit)], "none of the 1 records has a negative of each level"),
        ([str(plan), "--output", str(audit)], "--output is for records: the audit of the plan"),
        ([str(tmp_path / "none"), "--output", str(audit)], "does not exist"),
    ):
        with pytest.raises(SystemExit, match=complaint):
            cli.main(["synth", "audit", *words])
    assert not audit.exists()
