"""The comparison of trainers, with turns made up: no other trainer is installed here."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import trainers, trainers_own
from benchmarks.trainers import Contender, Job, Turn
from mgh_ds.common.errors import MghError
from mgh_ds.records.schema import Record
from mgh_ds.records.store import open_or_convert

GROUP = [Contender("ours", True, {}), Contender("theirs", False, {})]


def turn(step_s: float = 1.0, losses: tuple[float, ...] = (2.0, 1.9, 1.8), **changes: object) -> Turn:
    """The first step takes ten times as long."""
    moments = [10 * step_s + i * step_s for i in range(len(losses))]
    steps = [
        {"moment": moment, "loss": loss, "texts": 8, "tokens": 100, "places": 160}
        for moment, loss in zip(moments, losses, strict=True)
    ]
    return Turn(threads=2, torch="2.13.0", steps=steps)._replace(**changes)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[Record]:
    return list(open_or_convert("sample:train", tmp_path_factory.mktemp("data")))


def test_the_warm_up_is_left_out_of_the_rates_and_ratios_are_formed_in_each_round():
    assert turn().rate("tokens") == pytest.approx(100)
    assert turn(0.5).rate("texts") == pytest.approx(16)
    rounds = [[turn(1.0), turn(2.0)], [turn(10.0), turn(40.0)], [turn(1.0), turn(3.0)]]
    (ratio,) = trainers.summary(GROUP, rounds)["ratios"]
    assert (ratio["ours"], ratio["theirs"]) == ("ours", "theirs")
    assert ratio["tokens_per_s"] == pytest.approx({"median": 3, "lower_quartile": 2.5, "upper_quartile": 3.5})


def test_padding_is_a_share_of_the_places():
    ours, theirs = trainers.summary(GROUP, [[turn(), turn()]])["contenders"]
    assert ours["padding"] == pytest.approx(0.375)
    assert theirs["loss_difference"] == 0


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (turn(losses=(2.01, 1.9, 1.8)), "in the first step"),
        (turn(losses=(2.0, 1.9, 1.7)), "losses of theirs differ"),
        (turn(threads=1), "different threads"),
        (turn(torch="2.12.0"), "different torch"),
        (turn(losses=(2.0, 1.9)), "did not train on the texts"),
    ],
)
def test_contenders_that_did_other_work_are_refused(other: Turn, what: str):
    trainers.check(GROUP, [[turn(), turn()]])
    with pytest.raises(MghError, match=what):
        trainers.check(GROUP, [[turn(), turn()], [turn(), other]])


def test_losses_are_compared_where_batches_and_pooling_are_the_same():
    names = [one.name for one in trainers.contenders(8) if one.same_batches]
    assert names == ["ours, mean", "ours, mean, cached", "theirs, plain", "theirs, cached"]
    other = [GROUP[0], Contender("theirs, by length", False, {"by_length": True})]
    trainers.check(other, [[turn(), turn(losses=(3.0, 2.0, 1.0))]])


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


def test_contenders_take_turns_backwards_in_every_other_round(tmp_path, monkeypatch):
    ran = []

    def run(contender, _job, _python, folder):
        folder.mkdir()
        ran.append(contender.name)
        return turn()

    monkeypatch.setattr(trainers, "run", run)
    options = trainers._parser().parse_args(["--rounds", "2"])
    rounds = trainers.take_turns(GROUP, None, options, tmp_path)
    assert ran == ["ours", "theirs", "theirs", "ours"]
    assert [len(found) for found in rounds] == [2, 2]


def test_a_turn_that_fails_says_why(tmp_path):
    job = Job("model", "records", "rows", steps=1, global_batch=1, threads=1)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no such module\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(MghError, match="theirs failed:\nno such module"):
        trainers.run(GROUP[1], job, python, tmp_path / "turn")


def test_the_page_shows_what_was_measured(tmp_path):
    settings = {"steps": 5, "global_batch": 64, "negatives": 2, "lora": None}
    rounds = [[turn(1.0), turn(2.0)], [turn(1.0), turn(2.0)]]
    found = {
        "environment": {"device": "a chip"},
        "model": "MiniLM",
        "records": "sample",
        "settings": settings,
        **trainers.summary(GROUP, rounds),
    }
    trainers.publish(tmp_path / "cpu-trainers-sample", found)
    text = (tmp_path / "cpu-trainers-sample.md").read_text(encoding="utf-8")
    assert "5 steps of 64 records with 2 negatives, all weights, 2 rounds" in text
    assert "| theirs | 50 (50 to 50) | 4 (4 to 4) | 38% | 2.0000 | 1.8000 |" in text
    assert "| ours | 2.00 (2.00 to 2.00) |" in text
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
