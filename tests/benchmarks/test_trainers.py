"""The comparison of trainers, with turns made up: no other trainer is installed here."""

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks import trainers, trainers_own
from benchmarks.trainers import Contender, Job
from mgh_ds.common.errors import MghError
from mgh_ds.records.schema import Record
from mgh_ds.records.store import open_or_convert

GROUP = [Contender("ours", True, {}), Contender("theirs", False, {})]


def steps(
    *seconds: float, losses: tuple[float, ...] = (2.0, 1.9, 1.8, 1.7), **changes: object
) -> list[dict[str, object]]:
    """The first takes ten seconds."""
    same = {"texts": 8, "tokens": 100, "places": 160, "threads": 2, "torch": "2.13.0"} | changes
    times = [10.0, *(seconds or (1.0, 1.0, 1.0))]
    return [{"seconds": one, "loss": loss, **same} for one, loss in zip(times, losses, strict=True)]


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[Record]:
    return list(open_or_convert("sample:train", tmp_path_factory.mktemp("data")))


def test_the_warm_up_is_left_out_and_ratios_are_formed_in_each_round():
    found = trainers.summary(GROUP, [steps(1.0, 10.0, 1.0), steps(2.0, 40.0, 3.0)])
    ours, _ = found["contenders"]
    assert (ours["tokens_per_s"]["median"], ours["texts_per_s"]["median"]) == (100, 8)
    assert ours["tokens_per_s"]["overall"] == pytest.approx(300 / 12)
    (ratio,) = found["ratios"]
    assert (ratio["ours"], ratio["theirs"], found["rounds"]) == ("ours", "theirs", 3)
    assert ratio["tokens_per_s"] == pytest.approx(
        {"median": 3, "lower_quartile": 2.5, "upper_quartile": 3.5, "overall": 45 / 12}
    )


def test_padding_is_a_share_of_the_places():
    ours, theirs = trainers.summary(GROUP, [steps(), steps(places=100)])["contenders"]
    assert ours["padding"] == pytest.approx(0.375)
    assert (theirs["padding"], theirs["loss_difference"]) == (0, 0)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (steps(losses=(2.01, 1.9, 1.8, 1.7)), "in the first step"),
        (steps(losses=(2.0, 1.9, 1.8, 1.6)), "losses of theirs differ"),
        (steps(threads=1), "different threads"),
        (steps(torch="2.12.0"), "different torch"),
        (steps(tokens=99), "did not train on the texts"),
    ],
)
def test_contenders_that_did_other_work_are_refused(other, what):
    trainers.check(GROUP, [steps(), steps()])
    with pytest.raises(MghError, match=what):
        trainers.check(GROUP, [steps(), other])


def test_losses_are_compared_where_batches_and_pooling_are_the_same():
    names = [one.name for one in trainers.contenders(8) if one.same_batches]
    assert names == ["ours, mean", "ours, mean, cached", "theirs, plain", "theirs, cached"]
    other = [GROUP[0], Contender("theirs, by length", False, {"by_length": True})]
    trainers.check(other, [steps(), steps(losses=(3.0, 2.0, 1.0, 1.0))])


def test_chosen_records_share_no_text(records):
    twice = [records[0].model_copy(update={"id": "again"}), *records]
    chosen = trainers.choose(twice, 2)
    assert len(chosen) == len(records)
    texts = [
        text
        for record in chosen
        for text in (record.query, record.positive, *(one.text for one in record.negatives))
    ]
    assert len({*texts}) == len(texts)
    assert trainers.choose(records, 5) == []


def test_both_sides_get_the_same_batches(records, tmp_path, monkeypatch):
    """The rows are the texts of the plan's steps, whatever the micro-batch."""
    monkeypatch.setattr(trainers, "without_dropout", lambda folder: folder)
    arguments = ["--steps", "3", "--global-batch", "8", "--threads", "1"]
    job = trainers.prepare(trainers._parser().parse_args(arguments), tmp_path)
    rows = json.loads(Path(job.rows).read_text(encoding="utf-8"))
    assert len(rows) == 24
    assert rows[0].keys() == {"query", "positive", "negative_1", "negative_2"}
    cached = list(trainers.batch_rows(Job(**{**vars(job), "micro_batch": 2})))
    for step in range(3):
        batch = slice(8 * step, 8 * step + 8)
        assert sorted(map(str, rows[batch])) == sorted(map(str, cached[batch]))
    by_query = {record.query: record for record in records}
    for row in rows:
        assert row["positive"] == by_query[row["query"]].positive


# Stands in for both trainers: it has the gate alone.
CONTENDER = """\
import json, sys
from benchmarks.gate import Gate
job = json.load(open(sys.argv[-2]))
gate = Gate(int(sys.argv[-1]), job["steps"])
for step in range(job["steps"]):
    with open(job["records"], "a") as file:
        print(job["pooling"], file=file)
    gate.stop({"loss": step})
sys.exit("it broke" if job["by_length"] else 0)
"""


@pytest.fixture
def python(tmp_path, monkeypatch) -> Path:
    """An interpreter that runs a contender's stand-in, whatever it is told to."""
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\n{CONTENDER}", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(trainers.sys, "executable", str(python))
    return python


def test_contenders_take_turns_step_by_step_backwards_in_every_other_round(tmp_path, python):
    job = Job("model", str(tmp_path / "order"), "rows", steps=4, global_batch=1, threads=1)
    group = [GROUP[0], Contender("theirs", False, {"pooling": "ata"})]
    ours, theirs = trainers.take_turns(group, job, python, tmp_path)
    order = (tmp_path / "order").read_text(encoding="utf-8").split()
    # A contender begins its next step only when it is its turn: the first of its steps run at the start.
    assert order == ["mean", "ata", "mean", "ata", "ata", "mean", "mean", "ata"]
    assert [step["loss"] for step in ours] == [step["loss"] for step in theirs] == [0, 1, 2, 3]
    assert all(step["seconds"] >= 0 for step in ours + theirs)


def test_a_contender_that_fails_says_why(tmp_path, python):
    job = Job("model", str(tmp_path / "order"), "rows", steps=1, global_batch=1, threads=1)
    group = [GROUP[0], Contender("theirs", False, {"by_length": True})]
    with pytest.raises(MghError, match="theirs failed:\nit broke"):
        trainers.take_turns(group, job, python, tmp_path)


def test_the_page_shows_what_was_measured(tmp_path):
    settings = {"steps": 5, "global_batch": 64, "negatives": 2, "lora": None}
    found = {
        "environment": {"device": "a chip"},
        "model": "MiniLM",
        "records": "sample",
        "settings": settings,
        **trainers.summary(GROUP, [steps(), steps(2.0, 2.0, 2.0)]),
    }
    trainers.publish(tmp_path / "cpu-trainers-sample", found)
    text = (tmp_path / "cpu-trainers-sample.md").read_text(encoding="utf-8")
    assert "5 steps of 64 records with 2 negatives, all weights, 3 rounds" in text
    assert "| theirs | 50 (50 to 50) | 4 (4 to 4) | 38% | 2.0000 | 1.7000 |" in text
    assert "| ours | 2.00 (2.00 to 2.00); 2.00 |" in text
    assert json.loads((tmp_path / "cpu-trainers-sample.json").read_text(encoding="utf-8")) == found


def test_without_the_other_environment_the_line_says_how_to_make_it(tmp_path, capsys):
    assert trainers.main(["--peer-python", str(tmp_path / "python")]) == 2
    assert "make trainers makes it" in capsys.readouterr().err


def test_calls_are_counted():
    class Owner:
        double = staticmethod(lambda number: 2 * number)

    calls = trainers_own.count_calls(Owner, "double")
    assert [Owner.double(number) for number in range(3)] == [0, 2, 4]
    assert calls() == 3


def test_the_other_environment_has_the_locked_versions():
    """Of everything but sentence-transformers, so that the trainers alone differ."""
    wanted, locked = (
        dict(re.findall(r"^([\w-]+)==(.+)$", Path("requirements", name).read_text(), flags=re.MULTILINE))
        for name in ("trainers.txt", "cpu.lock")
    )
    assert wanted.pop("sentence-transformers").startswith("6.")
    assert {"torch", "transformers"} <= wanted.keys()
    assert wanted.items() <= locked.items()
