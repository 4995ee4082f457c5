"""`mgh-ds data mine --relabel`: levels and false negatives as a teacher sees them."""

import json
import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mgh_ds import cli
from mgh_ds.common.errors import MghError
from mgh_ds.distributed.workers import Worker
from mgh_ds.encoding import work
from mgh_ds.encoding.settings import EncodingSettings
from mgh_ds.mining import embedding, teacher_scores
from mgh_ds.mining.relabel import EncoderTeacher, relabel
from mgh_ds.mining.rescoring import Judge
from mgh_ds.mining.selection import Selection
from mgh_ds.records.commands import stats_command, validate_command
from mgh_ds.records.reader import read_records
from mgh_ds.records.relabelled import read_notes
from mgh_ds.records.schema import Record
from mgh_ds.records.stats import stats
from tests.mining.test_mine import sentence
from tests.records.examples import record_values, write_jsonl

ALONE = Worker()
RESULT = ("records.jsonl", "mining.json")
BANDS = (0.5, 0.7, 0.85)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power is cut here
    monkeypatch.setattr(teacher_scores, "PART_ROWS", 4)
    described = work.describe
    monkeypatch.setattr(embedding, "describe", lambda *arguments: described(*arguments, part_rows=16))


@pytest.fixture
def records(tmp_path) -> Path:
    random = np.random.default_rng(0)
    rows = []
    for number in range(18):
        own = [{"text": sentence(random), "level": level} for level in [1, 2, None, 4][: number % 5]]
        rows.append(
            record_values(number, query=f"{sentence(random)}?", positive=sentence(random), negatives=own)
        )
    rows[8]["negatives"][1]["text"] = rows[9]["negatives"][0]["text"]  # one text, two records
    return write_jsonl(tmp_path / "records.jsonl", rows)


@pytest.fixture
def run(encoder, records):
    def run(folder, worker=ALONE, teacher=None, records=records, **selection):
        teacher = teacher or EncoderTeacher(encoder, EncodingSettings(model="unused"))
        return relabel(folder, records, Selection(**{"bands": BANDS, **selection}), teacher, worker)

    return run


def result(folder):
    return list(read_records(folder / "records.jsonl"))


def judge(scores: dict[str, float]) -> Judge:
    """That gives these texts these scores."""
    return Judge(
        "judge", {"weights": "1"}, lambda: lambda pairs: np.array([scores[text] for _, text in pairs])
    )


def one_record(tmp_path, levels, **changes) -> Path:
    """Whose positive is "yes" and whose negatives are "a", "b", …"""
    negatives = [{"text": chr(97 + place), "level": level} for place, level in enumerate(levels)]
    values = record_values(0, positive="yes", negatives=negatives) | changes
    return write_jsonl(tmp_path / "one.jsonl", [values])


def test_each_negative_gets_the_level_of_its_cosine_or_goes(run, records, encoder, tmp_path):
    expected = []  # of each record, the cosines of its positive and negatives
    for record in read_records(records):
        texts = [record.query, record.positive, *(negative.text for negative in record.negatives)]
        query, *others = encoder.encode(texts).astype(float)
        expected.append([query @ other for other in others])
    shares = [score / positive for positive, *others in expected for score in others]
    *bands, most = np.quantile(shares, [0.2, 0.4, 0.6, 0.8]).tolist()
    said = run(tmp_path / "out", bands=tuple(bands), relative_max=most)
    changes = Counter()
    for old, new, scores in zip(read_records(records), result(tmp_path / "out"), expected, strict=True):
        assert (new.id, new.query, new.positive, new.task) == (old.id, old.query, old.positive, old.task)
        positive, *others = scores
        assert new.score == pytest.approx(positive, abs=1e-5)
        left = []
        for negative, score in zip(old.negatives, others, strict=True):
            share = score / positive
            after = None if share > most else 1 + sum(share >= border for border in bands)
            changes[str(negative.level or "none"), str(after or "dropped")] += 1
            if after:
                left.append((negative.text, after, pytest.approx(score, abs=1e-5)))
        assert [(n.text, n.level, n.score) for n in new.negatives] == left
    table = said["relabelled"]["levels"]
    assert {(b, a): n for b, row in table.items() for a, n in row.items() if n} == changes
    dropped = sum(count for (_, after), count in changes.items() if after == "dropped")
    assert said["left_out"] == {"above --relative-max": dropped}
    assert dropped > 0
    assert said["records"] == 18
    assert said["records_without_negatives"] == 4
    validate_command(tmp_path / "out" / "records.jsonl")


def test_what_came_of_each_negative_stands_in_the_record(run, tmp_path):
    records = one_record(tmp_path, [1, 4, None, 2])
    scores = judge({"yes": 0.8, "a": 0.79, "b": 0.1, "c": 0.6, "d": 0.48})
    said = run(tmp_path / "out", records=records, teacher=scores)
    [record] = result(tmp_path / "out")
    assert [(n.text, n.level, n.score) for n in record.negatives] == [
        ("b", 1, 0.1),
        ("c", 3, 0.6),
        ("d", 2, 0.48),
    ]
    assert record.score == 0.8
    assert {key: value for key, value in record.source.items() if key.startswith("relabelled")} == {
        "relabelled_by": "judge",
        "relabelled_by_sha256": record.source["relabelled_by_sha256"],
        "relabelled_levels": "1>dropped 4>1 none>3 2>2",
        "relabelled_scores": "0.7900 0.1000 0.6000 0.4800",
        "relabelled_positive_score": "0.8000",
    }
    assert said["relabelled"] == {
        "records": 1,
        "by": {"judge": 1},
        "levels": {
            "1": {"1": 0, "2": 0, "3": 0, "dropped": 1},
            "2": {"1": 0, "2": 1, "3": 0, "dropped": 0},
            "4": {"1": 1, "2": 0, "3": 0, "dropped": 0},
            "none": {"1": 0, "2": 0, "3": 1, "dropped": 0},
        },
        "mean_score_before": {"1": 0.79, "2": 0.48, "4": 0.1, "none": 0.6},
        "mean_score_after": {"1": 0.1, "2": 0.48, "3": 0.6, "dropped": 0.79},
        "mean_positive_score": 0.8,
    }
    assert not (tmp_path / "out" / "vectors").exists(), "a cross-encoder needs none"


def test_stats_show_what_the_pass_did(run, tmp_path, capsys):
    said = run(tmp_path / "out")
    assert stats(tmp_path / "out" / "records.jsonl")["relabelled"] == said["relabelled"]
    stats_command(tmp_path / "out" / "records.jsonl")
    out = capsys.readouterr().out
    assert "14 records relabelled by" in out
    assert "dropped" in out
    assert stats(write_jsonl(tmp_path / "new.jsonl", [record_values()]))["relabelled"] is None


def test_without_bands_levels_stay_and_only_false_negatives_go(run, tmp_path):
    scores = judge({"yes": 0.8, "a": 0.1, "b": 0.79, "c": 0.7, "d": 0.55})
    records = one_record(tmp_path, [4, 1, None, 2])
    said = run(
        tmp_path / "out", records=records, teacher=scores, bands=None, absolute_margin=0.2, relative_max=None
    )
    assert [(n.text, n.level) for n in result(tmp_path / "out")[0].negatives] == [("a", 4), ("d", 2)]
    assert said["left_out"] == {"within --absolute-margin": 2}


@pytest.mark.parametrize("drop", [False, True])
def test_a_record_that_loses_all_stays_as_a_pair_unless_asked(run, records, tmp_path, drop):
    said = run(tmp_path / "out", max_score=-2.0, relative_max=None, drop_unmined=drop)
    assert said["records_that_lost_all"] == 14
    assert said["records_without_negatives"] == 4
    if drop:
        assert (tmp_path / "out" / "records.jsonl").read_bytes() == b""
    else:
        found = result(tmp_path / "out")
        assert [(r.id, r.negatives) for r in found] == [(r.id, []) for r in read_records(records)]


def test_a_positive_of_the_same_query_is_no_negative_whatever_it_scores(run, tmp_path):
    rows = [
        record_values(0, query="q", positive="yes", negatives=[{"text": "also", "level": 1}]),
        record_values(1, query="q", positive="also", negatives=[{"text": "no", "level": 1}]),
    ]
    records = write_jsonl(tmp_path / "two.jsonl", rows)
    said = run(tmp_path / "out", records=records, teacher=judge({"yes": 0.9, "also": 0.1, "no": 0.01}))
    assert [len(record.negatives) for record in result(tmp_path / "out")] == [0, 1]
    assert said["left_out"] == {"a positive of the same query": 1}


def test_what_mining_noted_is_kept_for_the_negatives_that_stay(run, tmp_path):
    source = {"dataset": "d", "mined_by": "m", "mined_ranks": "1 2", "mined_scores": "0.7 0.6"}
    records = one_record(tmp_path, [4, 3, 2], source=source | {"relabelled_judge": "of an earlier pass"})
    scores = {"yes": 0.8, "a": 0.1, "b": 0.79, "c": 0.4}
    run(tmp_path / "out", records=records, teacher=judge(scores))
    [record] = result(tmp_path / "out")
    assert (record.source["mined_ranks"], record.source["mined_scores"]) == ("2", "0.6")
    assert "relabelled_judge" not in record.source
    run(tmp_path / "none", records=records, teacher=judge(scores), max_score=0.0)
    assert {"mined_by"} == {key for key in result(tmp_path / "none")[0].source if key.startswith("mined")}


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_workers_gives_the_same_records(run, tmp_path, count):
    run(tmp_path / "one")
    for number in range(count):
        run(tmp_path / "many", Worker(number, count))
    for name in RESULT:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


@pytest.mark.parametrize("moment", [5, 25, 34])
def test_killed_at_any_write_is_never_killed(run, tmp_path, moment):
    child = os.fork()
    if child == 0:  # a copy of this process, which kills itself at its `moment`-th flush to the disk
        flushes = iter(range(1000))

        def die(_):
            if next(flushes) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        os.fsync = die
        run(tmp_path / "killed")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not (tmp_path / "killed" / "mining.json").exists()
    run(tmp_path / "killed")
    run(tmp_path / "whole")
    for name in RESULT:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_choice_or_teacher_is_refused_and_nothing_is_scored_twice(run, tmp_path, monkeypatch):
    first = run(tmp_path / "out")
    monkeypatch.setattr(teacher_scores, "dots", None)
    assert run(tmp_path / "out") == first
    with pytest.raises(MghError, match=r"chosen otherwise .relabel\.max_score: None → 0\.5"):
        run(tmp_path / "out", max_score=0.5)
    (tmp_path / "out" / "mining.json").unlink()
    assert run(tmp_path / "out", max_score=0.5) != first
    with pytest.raises(MghError, match="scores was made of something else"):
        run(tmp_path / "out", teacher=judge({}))


def test_records_without_any_negative_and_scores_that_are_none_are_refused(run, tmp_path):
    with pytest.raises(MghError, match=r"none of the 1 records of .*one\.jsonl has a negative"):
        run(tmp_path / "out", records=one_record(tmp_path, []))
    records = one_record(tmp_path, [1])
    run(tmp_path / "out", records=records)  # mended, they are taken in the same folder
    with pytest.raises(MghError, match="NaN or infinity to 1 of 2 texts, one of them of record 'record-0'"):
        run(tmp_path / "nan", records=records, teacher=judge({"yes": 0.5, "a": np.nan}))
    assert not (tmp_path / "nan" / "records.jsonl").exists()


def test_a_source_without_room_for_the_notes_is_refused_before_anything_is_scored(run, tmp_path):
    keys = {"dataset": "d"} | {f"key {i}": "value" for i in range(61)}
    records = one_record(tmp_path, [1], source=keys)
    with pytest.raises(
        MghError, match=r"record 'record-0' has 62 keys in its source; 5 are .* at least 3 of"
    ):
        run(tmp_path / "out", records=records)
    assert not (tmp_path / "out" / "vectors").exists()
    pair = record_values(1, negatives=[], source=keys)  # gets no notes
    rows = [record_values(0), pair]
    run(tmp_path / "out", records=write_jsonl(tmp_path / "two.jsonl", rows))


def test_the_verb_relabels_and_refuses_what_it_cannot_heed(records, model, tmp_path, capsys):
    words = ["data", "mine", str(records), str(tmp_path / "out"), "--relabel"]
    cli.main(
        [*words, "--model", model, "--pooling", "mean", "--device", "cpu", "--bands", "0.5", "0.7", "0.85"]
    )
    out = capsys.readouterr().out
    assert f"18 records in {tmp_path / 'out' / 'records.jsonl'}" in out
    assert "4 records had no negative and stay as pairs" in out
    assert "14 records relabelled by" in out
    for options, said in [
        (["--model", model, "--corpus", "c"], "leave out --corpus"),
        (["--model", model, "--negatives", "3"], "leave out --negatives"),
        (["--model", model, "--index-parameters", "nprobe=3"], "--index-parameters is for --index"),
        (["--model", model, "--level-ranks", "1", "2", "3"], "leave out --level-ranks"),
        (["--model", model, "--rank-max", "0"], "leave out --rank-max"),
        (["--model", model, "--cross-encoder", ""], "--cross-encoder is empty"),
        (["--model", model, "--index", ""], "--index is empty"),
        (["--model", model, "--cross-encoder", "x"], "takes one teacher"),
        ([], "takes one teacher"),
        (["--cross-encoder", "x", "--instructions"], "are for --model"),
        (["--cross-encoder", "x", "--max-length", "9"], "--max-length is for --model"),
    ]:
        with pytest.raises(SystemExit, match=said):
            cli.main([*words, *options])
    with pytest.raises(SystemExit, match="--model is missing"):
        cli.main(words[:-1])


@pytest.mark.parametrize(
    "source",
    [
        {"relabelled_levels": "yes"},
        {"relabelled_levels": "1>2", "relabelled_scores": "0.5"},
        {"relabelled_levels": "1>2", "relabelled_scores": "0.5 1", "relabelled_positive_score": "1"},
        {"relabelled_levels": "1>9", "relabelled_scores": "0.5", "relabelled_positive_score": "1"},
        {"relabelled_levels": "1>2", "relabelled_scores": "much", "relabelled_positive_score": "1"},
    ],
)
def test_keys_that_others_chose_are_no_notes(source):
    record = Record.model_validate(record_values(source={"dataset": "d"} | source))
    assert read_notes(record.source) is None


def test_mining_does_not_go_into_the_folder_of_a_relabel_pass(run, records, tmp_path, encoder):
    from mgh_ds.mining.run import Request, mine

    run(tmp_path / "out")
    request = Request(records, None, Selection(), EncodingSettings(model="unused"))
    with pytest.raises(MghError, match="corpus: the records' negatives → None"):
        mine(tmp_path / "out", request, encoder, None, ALONE)
    assert (
        json.loads((tmp_path / "out" / "mining.json").read_text())["asked"]["relabel"]["drop_unmined"]
        is False
    )


def test_what_is_read_is_not_written_over(run, records, encoder, tmp_path):
    """The records, or the corpus, lie where the result would."""
    from mgh_ds.encoding.corpus import Corpus
    from mgh_ds.mining.run import Request, mine

    before = records.read_bytes()
    assert records == tmp_path / "records.jsonl"
    corpus = tmp_path / "out" / "records.jsonl"
    corpus.parent.mkdir()
    corpus.write_text('{"_id": "1", "text": "a text"}\n')
    request = Request(records, Corpus(corpus), Selection(), EncodingSettings(model="unused"))
    for call in (
        lambda: run(tmp_path / "out" / ".."),
        lambda: mine(tmp_path / "out", request, encoder, None, ALONE),
    ):
        with pytest.raises(MghError, match=r"records\.jsonl would be written over by the result"):
            call()
    assert records.read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["records.jsonl"]
