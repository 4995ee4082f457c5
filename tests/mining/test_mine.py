"""`mgh-ds data mine`: sound records, the same for any number of workers and however often one is killed."""

import json
import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mgh_ds import cli
from mgh_ds.common.errors import MghError
from mgh_ds.curriculum import Loader, TrainingPlan
from mgh_ds.curriculum.config import CurriculumConfig
from mgh_ds.distributed.workers import Worker
from mgh_ds.encoding import work
from mgh_ds.encoding.corpus import Corpus
from mgh_ds.encoding.settings import EncodingSettings
from mgh_ds.encoding.vectors import Vectors
from mgh_ds.mining import candidates, embedding, rescoring
from mgh_ds.mining.documents import Documents
from mgh_ds.mining.rescoring import Judge
from mgh_ds.mining.run import Request, mine
from mgh_ds.mining.selection import Selection
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.onnx_model import OnnxModel
from mgh_ds.model.tiny import SENTENCES
from mgh_ds.records.commands import validate_command
from mgh_ds.records.reader import read_records
from mgh_ds.records.schema import Record
from mgh_ds.records.store import open_or_convert
from tests.evaluation.test_judges import with_head
from tests.records.examples import record_values, write_jsonl

ALONE = Worker()
RESULT = ("records.jsonl", "mining.json")
WORDS = sorted({word.strip(".,?").lower() for sentence in SENTENCES for word in sentence.split()})


def sentence(random) -> str:
    return " ".join(random.choice(WORDS, 8))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power is cut here
    monkeypatch.setattr(candidates, "PART_ROWS", 8)
    monkeypatch.setattr(rescoring, "PART_ROWS", 4)
    described = work.describe

    def describe(*arguments):
        return described(*arguments, part_rows=16)

    monkeypatch.setattr(embedding, "describe", describe)


@pytest.fixture
def records(tmp_path) -> Path:
    random = np.random.default_rng(0)
    rows = []
    for number in range(20):
        text = sentence(random)
        own = [{"text": sentence(random), "level": None}] if number % 2 else []
        rows.append(record_values(number, query=f"{text}?", positive=f"{text} yes", negatives=own))
    rows[3]["query"] = rows[2]["query"]  # two positives of one query
    rows[5]["positive"] = rows[4]["positive"]  # one positive of two queries
    return write_jsonl(tmp_path / "records.jsonl", rows)


@pytest.fixture
def corpus(tmp_path, records) -> Path:
    random = np.random.default_rng(1)
    own = [json.loads(line) for line in records.read_text().splitlines()]
    texts = [row["positive"] for row in own] + [row["query"] for row in own[:5]]
    texts += [sentence(random) for _ in range(25)] + [
        negative["text"] for row in own for negative in row["negatives"]
    ]
    rows = [{"_id": str(number), "text": text} for number, text in enumerate(texts)]
    return write_jsonl(tmp_path / "corpus.jsonl", rows)


@pytest.fixture
def run(encoder, records):
    """Mines into a folder, as one of several workers; keywords are fields of `Selection`."""

    def run(
        folder,
        corpus=None,
        worker=ALONE,
        judge=None,
        rank_max=15,
        instructions=False,
        replace=False,
        index=None,
        records=records,
        **selection,
    ):
        asked = Selection(**{"negatives": 3, "relative_max": None, **selection})
        request = Request(
            records=records,
            corpus=None if corpus is None else Corpus(corpus),
            selection=asked,
            encoding=EncodingSettings(model="unused"),
            rank_max=rank_max,
            instructions=instructions,
            replace=replace,
            index=index,
        )
        return mine(folder, request, encoder, judge, worker)

    return run


def result(folder):
    return list(read_records(folder / "records.jsonl"))


def mined(record):
    """The texts that were added to a record, with what its source says of them."""
    count = len(record.source.get("mined_ranks", "").split())
    texts = [negative.text for negative in record.negatives[len(record.negatives) - count :]]
    return list(zip(texts, record.source.get("mined_scores", "").split(), strict=True))


@pytest.mark.parametrize("searched", ["positives", "corpus"])
def test_negatives_are_the_most_similar_texts_that_are_not_known(
    run, records, corpus, encoder, tmp_path, searched
):
    run(tmp_path / "out", corpus if searched == "corpus" else None)
    before = list(read_records(records))
    if searched == "corpus":
        texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    else:
        texts = [record.positive for record in before]
    texts = list(dict.fromkeys(texts))
    similarity = encoder.encode([r.query for r in before]).astype(float) @ encoder.encode(texts).T.astype(
        float
    )
    for row, (old, new) in enumerate(zip(before, result(tmp_path / "out"), strict=True)):
        known = {other.positive for other in before if other.query == old.query} | {old.query}
        known |= {negative.text for negative in old.negatives}
        ranked = [i for i in np.argsort(-similarity[row], kind="stable") if texts[i] not in known]
        assert [text for text, _ in mined(new)] == [texts[i] for i in ranked[:3]]
        assert [float(score) for _, score in mined(new)] == pytest.approx(
            similarity[row][ranked[:3]], abs=1e-4
        )
        assert new.negatives[: len(old.negatives)] == old.negatives
        assert [negative.score for negative in new.negatives[len(old.negatives) :]] == pytest.approx(
            similarity[row][ranked[:3]], abs=1e-6
        )
        assert new.score == pytest.approx(float(new.source["mined_positive_score"]), abs=1e-4)
        assert new.source["mined_ranks"] == "1 2 3"
        assert float(new.source["mined_positive_score"]) == pytest.approx(
            float(encoder.encode([old.query])[0] @ encoder.encode([old.positive])[0]), abs=1e-4
        )
        assert {"dataset", "domain", "mined_by", "mined_by_sha256"} <= new.source.keys()


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_workers_gives_the_same_records(run, corpus, tmp_path, count):
    run(tmp_path / "one", corpus, bands=(0.5, 0.8, 0.9))
    for number in range(count):  # the first does what nobody else has begun
        run(tmp_path / "many", corpus, Worker(number, count), bands=(0.5, 0.8, 0.9))
    for name in RESULT:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_workers_at_the_same_time_share_the_work(run, corpus, tmp_path):
    children = []
    for number in range(2):
        child = os.fork()
        if child == 0:
            try:
                run(tmp_path / "many", corpus, Worker(number, 2))
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    run(tmp_path / "one", corpus)
    assert (tmp_path / "one" / "records.jsonl").read_bytes() == (
        tmp_path / "many" / "records.jsonl"
    ).read_bytes()


@pytest.mark.parametrize("moment", [4, 20, 37, 50])
def test_killed_at_any_write_is_never_killed(run, corpus, tmp_path, moment):
    child = os.fork()
    if child == 0:  # a copy of this process, which kills itself at its `moment`-th flush to the disk
        flushes = iter(range(1000))
        sync = os.fsync

        def die(descriptor):
            if next(flushes) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            sync(descriptor)

        os.fsync = die
        run(tmp_path / "killed", corpus)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not (tmp_path / "killed" / "mining.json").exists()
    run(tmp_path / "killed", corpus)
    run(tmp_path / "whole", corpus)
    for name in RESULT:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_is_there_is_not_made_again_and_another_choice_is_refused(run, corpus, tmp_path, monkeypatch):
    first = run(tmp_path / "out", corpus)
    monkeypatch.setattr(candidates, "search", None)
    assert run(tmp_path / "out", corpus) == first
    with pytest.raises(MghError, match=r"chosen otherwise .selection\.max_score: None → 0\.5"):
        run(tmp_path / "out", corpus, max_score=0.5)
    (tmp_path / "out" / "mining.json").unlink()
    assert run(tmp_path / "out", corpus, max_score=0.5) != first
    with pytest.raises(MghError, match=r"made of something else .depth: 15 → 10"):
        run(tmp_path / "out", corpus, rank_max=10)
    with pytest.raises(MghError, match=r"made of something else .corpus: "):
        run(tmp_path / "out")


def test_graded_records_pass_validation_and_train_under_the_curriculum(run, corpus, tmp_path, capsys):
    said = run(tmp_path / "out", corpus, negatives=1, level_ranks=(2, 6, 12), replace=True)
    assert said["negatives_by_level"] == {"1": 20, "2": 20, "3": 20, "4": 20}
    validate_command(tmp_path / "out" / "records.jsonl")
    assert "20 rows read, 20 accepted, 0 refused" in capsys.readouterr().out
    store = open_or_convert(tmp_path / "out" / "records.jsonl", tmp_path / "cache")
    plan = TrainingPlan(
        store.index(),
        CurriculumConfig(stages="coarse_to_fine", negatives=1),
        steps=4,
        global_batch=8,
        micro_batch=8,
        seed=0,
    )
    loader = Loader(store, plan)
    seen = [
        set(batch.levels[batch.document_valid[:, 1:]].tolist())
        for step in range(4)
        for batch in loader.micro_batches(step, 1, 0)
    ]
    assert seen[0] == {1}
    assert seen[-1] == {4}


def test_negatives_that_are_replaced_may_be_found_again_with_a_level(run, corpus, records, tmp_path):
    run(tmp_path / "out", corpus, negatives=13, rank_max=50, level_ranks=(2, 6, 12), replace=True)
    new = {record.id: {n.text for n in record.negatives} for record in result(tmp_path / "out")}
    own = [(record.id, n.text) for record in read_records(records) for n in record.negatives]
    assert any(text in new[name] for name, text in own)
    assert all(n.level for record in result(tmp_path / "out") for n in record.negatives)


def test_bands_are_shares_of_the_positives_score(run, tmp_path):
    run(tmp_path / "out", negatives=2, bands=(0.9, 0.95, 0.98))
    levels = Counter()
    for record in result(tmp_path / "out"):
        positive = float(record.source["mined_positive_score"])
        new = record.negatives[len(record.negatives) - len(mined(record)) :]
        for negative, (_, score) in zip(new, mined(record), strict=True):
            share = float(score) / positive
            low, high = [(-9, 0.9), (0.9, 0.95), (0.95, 0.98), (0.98, 9)][negative.level - 1]
            assert low - 1e-3 <= share <= high + 1e-3
            levels[negative.level] += 1
    assert len(levels) >= 3


def test_a_record_for_which_nothing_is_left_stays_with_what_it_had(run, records, tmp_path):
    said = run(tmp_path / "out", max_score=-2.0)
    assert said["records_without_mined_negatives"] == 20
    assert said["left_out"]["above --max-score"] == sum(said["left_out"].values()) > 0
    assert result(tmp_path / "out") == list(read_records(records))


def test_a_record_that_gets_none_keeps_its_scores_and_others_get_new_ones(run, tmp_path):
    negatives = [{"text": "a negative", "level": 2, "score": 0.3}]
    rows = [
        record_values(i, query=f"{text}?", positive=text, negatives=negatives, score=0.9)
        for i, text in enumerate(("the cat sat on the mat", "a dog"))
    ]
    before = write_jsonl(tmp_path / "scored.jsonl", rows)
    corpus = write_jsonl(tmp_path / "few.jsonl", [{"id": 1, "text": rows[0]["positive"]}])
    for replace in (False, True):
        out = tmp_path / f"out-{replace}"
        said = run(out, corpus, records=before, negatives=1, rank_max=None, replace=replace)
        assert said["records_without_mined_negatives"] == 1
        untouched, new = result(out)
        kept = [] if replace else negatives
        assert untouched == Record.model_validate(rows[0] | {"negatives": kept})
        assert new.score == pytest.approx(float(new.source["mined_positive_score"]), abs=1e-4)
        assert [negative.score for negative in new.negatives[:-1]] == [None] * len(kept)
        assert new.negatives[-1].text == rows[0]["positive"]


def test_notes_of_negatives_go_with_them(run, tmp_path):
    source = {"dataset": "d", "mined_by": "m", "mined_ranks": "1", "relabelled_levels": "2>3"}
    row = record_values(0, negatives=[{"text": "a negative", "level": 3}], source=source)
    before = write_jsonl(tmp_path / "noted.jsonl", [row, record_values(1, query="b", positive="another")])
    run(tmp_path / "out", records=before, negatives=1, rank_max=None, max_score=-2.0, replace=True)
    without = result(tmp_path / "out")[0]
    assert (without.negatives, without.source) == ([], {"dataset": "d"})
    run(tmp_path / "kept", records=before, negatives=1, rank_max=None, max_score=-2.0)
    assert result(tmp_path / "kept")[0].source == source


def test_negatives_for_which_a_record_has_no_room_are_counted(run, tmp_path):
    own = [{"text": f"negative {i}", "level": None} for i in range(62)]
    rows = [record_values(i, query=f"q {i}", positive=f"p {i}", negatives=own) for i in range(5)]
    full = write_jsonl(tmp_path / "full.jsonl", rows)
    said = run(tmp_path / "out", records=full, negatives=4, rank_max=None)
    assert said["negatives_by_level"] == {"none": 10}
    assert said["left_out"] == {"beyond the 64 negatives of a record": 10}
    assert said["records_with_fewer_mined_negatives"] == 5


def test_notes_of_an_earlier_mining_go_with_the_next(run, tmp_path):
    judge = Judge(
        "by-length", {"weights": "1"}, lambda: lambda pairs: np.array([len(t) / 200 for _, t in pairs])
    )
    run(tmp_path / "first", judge=judge)
    run(tmp_path / "second", records=tmp_path / "first" / "records.jsonl")
    for record in result(tmp_path / "second"):
        assert "mined_by" in record.source
        assert not any(key.startswith("mined_judge") for key in record.source)


def with_keys(count: int) -> dict[str, str]:
    return {"dataset": "d"} | {f"key {i}": "value" for i in range(count - 1)}


@pytest.mark.parametrize(("keys", "judged"), [(59, False), (56, True)])
def test_a_source_without_room_for_the_notes_is_refused_before_anything_is_encoded(
    run, tmp_path, keys, judged
):
    judge = (
        Judge("alike", {"weights": "1"}, lambda: lambda pairs: np.full(len(pairs), 0.5)) if judged else None
    )
    rows = [record_values(i, query=f"q {i}", positive=f"p {i}", source=with_keys(keys)) for i in range(9)]
    rows[5]["source"] |= {"mined_by": "an earlier one", "mined_ranks": "1"}  # which give way
    fits = write_jsonl(tmp_path / "fits.jsonl", rows)
    run(tmp_path / "out", records=fits, negatives=1, rank_max=None, judge=judge)
    assert {len(record.source) for record in result(tmp_path / "out")} == {64}
    rows[7]["source"] = with_keys(keys + 3)
    few = write_jsonl(tmp_path / "fits.jsonl", rows)
    said = rf"record 'record-7' has {keys + 3} keys in its source; {64 - keys} are .* take at least 3 of its"
    with pytest.raises(MghError, match=said):
        run(tmp_path / "new", records=few, negatives=1, rank_max=None, judge=judge)
    assert not (tmp_path / "new" / "vectors").exists()


def test_records_that_got_none_may_be_left_out(run, tmp_path):
    run(tmp_path / "all", relative_max=None)
    best = sorted(float(score) for record in result(tmp_path / "all") for _, score in mined(record)[-1:])
    chosen = {"relative_max": None, "rank_max": 3, "max_score": best[len(best) // 2]}
    said = run(tmp_path / "out", **chosen, drop_unmined=True)
    found = result(tmp_path / "out")
    assert len(found) == said["records"] == 20 - said["records_without_mined_negatives"]
    assert 0 < len(found) < 20
    fewer = sum(len(mined(record)) < 3 for record in found)
    assert said["records_with_fewer_mined_negatives"] == fewer > 0
    run(tmp_path / "whole", **chosen)
    kept = [record for record in result(tmp_path / "whole") if mined(record)]
    assert found == kept, "the others are as if nothing had been left out"


def test_queries_are_read_under_their_instruction_if_asked(run, encoder, tmp_path):
    run(tmp_path / "out", instructions=True)
    record = result(tmp_path / "out")[0]
    query = encoder.encode([record.query], record.task.instruction)[0]
    cosine = float(query @ encoder.encode([record.positive])[0])
    assert float(record.source["mined_positive_score"]) == pytest.approx(cosine, abs=1e-4)
    assert cosine != pytest.approx(
        float(encoder.encode([record.query])[0] @ encoder.encode([record.positive])[0]), abs=1e-3
    )


def test_a_cross_encoder_scores_anew_and_decides(run, tmp_path):
    asked = []

    def all_alike(pairs):
        asked.extend(pairs)
        return np.full(len(pairs), 0.9)

    judge = Judge("all-alike", {"weights": "1"}, lambda: all_alike)
    run(tmp_path / "out", judge=judge, relative_max=0.95)
    assert not any(mined(record) for record in result(tmp_path / "out"))
    assert len(asked) == 20 * (1 + 15)  # each positive, and each candidate


def test_a_cross_encoder_that_gives_nan_is_refused_before_anything_is_written(run, tmp_path):
    def broken(pairs):
        return np.where(np.arange(len(pairs)) == 3, np.nan, 0.5)

    with pytest.raises(
        MghError, match=r"the cross-encoder gave NaN or infinity to 1 of 64 texts, one of them '"
    ):
        run(tmp_path / "out", judge=Judge("broken", {"weights": "1"}, lambda: broken))
    assert not (tmp_path / "out" / "records.jsonl").exists()


def test_rescored_candidates_keep_their_ranks_and_say_both_scores(run, corpus, tmp_path):
    def by_length(pairs):
        return np.array([len(text) / 200 for _, text in pairs])

    judge = Judge("by-length", {"weights": "1"}, lambda: by_length)
    run(tmp_path / "out", corpus, judge=judge, rank_max=10)
    for record in result(tmp_path / "out"):
        texts = [text for text, _ in mined(record)]
        judged = [float(score) for score in record.source["mined_judge_scores"].split()]
        assert judged == pytest.approx([len(text) / 200 for text in texts], abs=1e-4)
        assert judged == sorted(judged, reverse=True)
        assert [negative.score for negative in record.negatives[-len(judged) :]] == pytest.approx(
            judged, abs=1e-4
        )
        assert record.score == pytest.approx(len(record.positive) / 200)
        assert float(record.source["mined_judge_positive_score"]) == pytest.approx(
            len(record.positive) / 200, abs=1e-4
        )
        assert all(1 <= int(rank) <= 10 for rank in record.source["mined_ranks"].split())
    other = Judge("other", {"weights": "2"}, lambda: by_length)
    with pytest.raises(MghError, match=r"cross_encoder\.weights: 1 → 2"):
        run(tmp_path / "out", corpus, judge=other, rank_max=10)


@pytest.mark.parametrize(("labels", "said"), [(None, "lack a head"), (3, "gives 3 numbers a pair")])
def test_a_model_that_is_no_judge_is_refused_before_anything_is_encoded(
    records, model, tmp_path, labels, said
):
    judge = model if labels is None else str(with_head(Path(model), tmp_path / "head", labels))
    for task in (["--model", model], ["--relabel"]):
        out = tmp_path / task[0]
        words = ["data", "mine", str(records), str(out), "--cross-encoder", judge, *task]
        with pytest.raises(SystemExit, match=said):
            cli.main(words)
        assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == ["cache"]


def test_a_judge_is_loaded_before_anything_is_encoded_and_only_while_there_is_work_for_it(run, tmp_path):
    out, loaded = tmp_path / "out", []

    def load():
        loaded.append((out / "vectors").exists())
        return lambda pairs: np.full(len(pairs), 0.5)

    run(out, judge=Judge("judge", {"weights": "1"}, load))
    assert loaded[0] is False
    loaded.clear()
    (out / "mining.json").unlink()
    run(out, judge=Judge("judge", {"weights": "1"}, load), max_score=0.4)
    assert not loaded, "another choice takes moments"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"_id": "3", "text": "again"},
            r"line 1: id '3' is that of .*|line \d+: id '3' is that of .*line 4 too",
        ),
        ({"_id": "x", "text": ""}, r"corpus\.jsonl, line \d+: field 'text' is empty"),
        ({"_id": "x", "text": "nul \0 nul"}, r"corpus\.jsonl, line \d+: field 'text' holds a NUL character"),
    ],
)
def test_a_bad_row_of_the_corpus_is_refused_with_its_place(run, corpus, tmp_path, row, said):
    with corpus.open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(MghError, match=said):
        run(tmp_path / "out", corpus)
    assert not (tmp_path / "out" / "documents.arrow").exists()
    lines = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join(lines[:-1]))  # mended, it is taken in the same folder
    run(tmp_path / "out", corpus)
    assert any(mined(record) for record in result(tmp_path / "out"))


def test_more_negatives_than_the_corpus_has_texts_are_refused(run, tmp_path):
    few = write_jsonl(tmp_path / "few.jsonl", [{"id": 1, "text": "one"}, {"id": 2, "text": "one"}])
    with pytest.raises(
        MghError, match=r"--negatives asks for 3 documents, but .*few\.jsonl has 1 distinct texts"
    ):
        run(tmp_path / "out", few, rank_max=None)
    assert not (tmp_path / "out" / "vectors").exists()


def test_what_was_refused_and_is_mended_is_taken_in_the_same_folder(run, corpus, tmp_path):
    out = tmp_path / "out"
    lines = corpus.read_text()
    corpus.write_text("".join(lines.splitlines(keepends=True)[:5]))
    with pytest.raises(MghError, match="--negatives asks for 7 documents"):
        run(out, corpus, rank_max=None, negatives=7)
    corpus.write_text(lines)
    run(out, corpus, rank_max=None, negatives=7)
    run(tmp_path / "fresh", corpus, rank_max=None, negatives=7)
    for name in RESULT:
        assert (out / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_a_refusal_leaves_what_was_encoded_before(run, corpus, tmp_path):
    out = tmp_path / "out"
    run(out, corpus)
    with pytest.raises(MghError, match="--rank-max asks for 500 documents"):
        run(out, corpus, rank_max=500)
    assert (out / "inputs.json").exists()
    with pytest.raises(MghError, match=r"made of something else .corpus: "):
        run(out)


@pytest.mark.parametrize("name", ["documents.arrow", "positives.arrow", "records.jsonl"])
def test_files_that_nobody_knows_are_neither_read_nor_removed(run, corpus, tmp_path, name):
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / name
    file.write_text("mine")
    with pytest.raises(MghError, match=rf"{name} lies there without inputs\.json.*: choose another folder"):
        run(tmp_path / "out", corpus)
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank_max": 10}, r"--rank-max 10 leaves out what is after it: none would be of level 1"),
        ({"rank_max": None}, r"level 2 at rank 50, and .* has 19 distinct texts: none would be of level 1"),
    ],
)
def test_levels_that_no_rank_has_are_refused_before_anything_is_encoded(run, tmp_path, options, said):
    with pytest.raises(MghError, match=said):
        run(tmp_path / "out", negatives=1, level_ranks=(5, 20, 50), **options)
    assert not (tmp_path / "out" / "vectors").exists()
    run(tmp_path / "out", negatives=1, level_ranks=(2, 4, 6), **options)


def test_documents_are_the_distinct_texts_at_any_row(corpus, tmp_path, run):
    run(tmp_path / "out", corpus)
    documents = Documents(tmp_path / "out" / "documents.arrow")
    texts = list(dict.fromkeys(text.text for text in Corpus(corpus)))
    assert [text.text for text in documents] == texts
    rows = np.array([7, 0, 7, len(texts) - 1])
    assert documents.texts(rows) == [texts[row] for row in rows]
    assert documents.find(documents.hashes[rows]).tolist() == rows.tolist()
    assert documents.find([12345]).tolist() == [-1]


def test_the_verb_mines_and_says_what_it_left_out(records, model, tmp_path, capsys):
    words = ["data", "mine", str(records), str(tmp_path / "out"), "--model", model, "--pooling", "mean"]
    cli.main([*words, "--negatives", "2", "--relative-max", "inf", "--max-score", "0.999", "--device", "cpu"])
    said = capsys.readouterr().out
    assert f"20 records in {tmp_path / 'out' / 'records.jsonl'}; negatives mined: level none: " in said
    assert "left out, not needed: " in said
    assert "fewer" not in said
    assert len(result(tmp_path / "out")) == 20


def test_the_verb_says_how_many_records_got_fewer_than_asked_for(records, model, tmp_path, capsys):
    words = ["data", "mine", str(records), str(tmp_path / "out"), "--model", model, "--relative-max", "inf"]
    cli.main([*words, "--negatives", "3", "--rank-min", "2", "--rank-max", "3", "--device", "cpu"])
    assert "20 records got fewer than the 3 asked for" in capsys.readouterr().out


def test_the_verb_runs_a_graph_whose_vectors_are_told_from_torchs(records, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    encoder = Encoder.from_pretrained("tiny-random/bert", device="cpu")
    encoder.save(tmp_path / "export", onnx=True)
    wanted = encoder.encode([record.query for record in read_records(records)])
    run, forward = [], OnnxModel.forward

    def noted(model, *given):
        run.append(model)
        return forward(model, *given)

    monkeypatch.setattr(OnnxModel, "forward", noted)
    for task in (["--negatives", "2", "--relative-max", "inf"], ["--relabel"]):
        out = tmp_path / task[0]
        words = ["data", "mine", str(records), str(out), "--model", str(tmp_path / "export"), *task]
        run.clear()
        cli.main([*words, "--backend", "onnx"])
        assert run
        assert len(result(out)) == 20
        queries = Vectors.open(out / "vectors" / "queries")
        assert "onnx/model.onnx" in queries.manifest.model
        found = np.concatenate([vectors for _, vectors in queries])
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        with pytest.raises(SystemExit, match=r"holds other vectors .*onnx/model\.onnx"):
            cli.main(words)
