"""A language model as judge: what it is asked, what is kept of it, and what a bad day costs."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mgh_ds.audit.agreement import labelled_set
from mgh_ds.audit.false_negatives import Verdicts
from mgh_ds.common.errors import MghError
from mgh_ds.records.schema import Negative, Record, Task
from mgh_ds.synthesis.config import EngineConfig, JudgeConfig
from mgh_ds.synthesis.engines.port import Completion, EngineDied, Request
from mgh_ds.synthesis.engines.scripted import ScriptedEngine
from mgh_ds.synthesis.judge import NegativeJudge, Question
from mgh_ds.synthesis.judging import Answers, judge_negatives, read_judge

LABELLED = labelled_set()
RIGHT = {one.negative for one in LABELLED if one.false_negative} | {"record 2, level 4"}
CONFIG = JudgeConfig(engine=EngineConfig(kind="scripted", model="oracle", max_in_flight=16))
TASK = Task(kind="asymmetric", subtype="short-short", instruction="Find the answer")
RECORDS = [
    Record(
        id=f"r{number}",
        task=TASK,
        language="en",
        query=f"query {number}",
        positive=f"positive {number}",
        negatives=[Negative(text=f"record {number}, level {level}", level=level) for level in (4, 3, 2, 1)],
        source={"dataset": "made"},
    )
    for number in range(6)
]


def candidate(request: Request) -> str:
    [message] = request.messages
    return re.search(r"<candidate>\n(.*)\n</candidate>", message["content"], re.DOTALL)[1]


def verdict(request: Request, right: bool) -> Completion:
    text = json.dumps({"reason": "It says so.", "right_answer": right})
    return Completion(request.unit_id, text, "stop", tokens_in=100, tokens_out=10)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The negatives that an engine is asked about, which knows which of them are right answers."""
    found: list[str] = []
    answer_as(monkeypatch, lambda request: verdict(request, candidate(request) in RIGHT), found)
    return found


def answer_as(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[Request], Completion], asked: list[str] | None = None
) -> None:
    def note(_engine: ScriptedEngine, request: Request) -> Completion:
        if not request.unit_id.startswith("probe") and asked is not None:
            asked.append(candidate(request))
        return answer(request)

    monkeypatch.setattr(ScriptedEngine, "_answer", note)


def verdicts(folder: Path, records: list[Record] = RECORDS) -> Verdicts:
    judge = read_judge(folder)
    assert judge is not None
    return judge(records, np.arange(0), lambda *_: None)


def test_a_question_shows_all_texts_to_a_model_that_knows_no_system_role() -> None:
    judge = NegativeJudge(CONFIG)
    for one in (LABELLED[0], next(one for one in LABELLED if one.kind == "symmetric")):
        [message] = judge.request(Question.labelled(one)).messages
        assert message["role"] == "user"
        for text in (one.instruction, one.query, one.positive, one.negative):
            assert text in message["content"]
        assert ("say the same as the query" in message["content"]) == (one.kind == "symmetric")
        assert "{" not in message["content"]


def test_verdicts_agreement_and_cost_are_kept(tmp_path: Path, asked: list[str]) -> None:
    assert read_judge(tmp_path) is None
    made = judge_negatives(tmp_path, RECORDS, CONFIG)
    assert asked[: len(LABELLED)] == [one.negative for one in LABELLED], "the labelled set comes first"
    assert len(asked) == len(set(asked)) == len(LABELLED) + 24
    assert (made["judged"], made["found"], made["agreement"]["kappa"]) == (24, 1, 1)
    calls = len(asked)
    assert made["cost"] == {
        "calls": calls,
        "tokens_in": 100 * calls,
        "tokens_out": 10 * calls,
        "without_verdict": {},
    }
    found = verdicts(tmp_path)
    assert np.argwhere(found.found).tolist() == [[2, 3]]
    assert found.judged.all()
    assert found.reasons == {(2, 3): "It says so."}
    assert found.judge == "oracle, a language model (scripted)"


def test_tokens_that_no_engine_counts_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_as(monkeypatch, lambda one: replace(verdict(one, True), tokens_in=0, tokens_out=0))
    cost = judge_negatives(tmp_path, RECORDS[:1], CONFIG)["cost"]
    assert (cost["tokens_in"], cost["tokens_out"]) == (None, None)


def test_levels_and_a_sample_bound_the_calls(tmp_path: Path, asked: list[str]) -> None:
    made = judge_negatives(tmp_path, RECORDS, CONFIG, levels=[4], sample=3)
    assert made["judged"] == 3
    assert len(asked) == len(LABELLED) + 3
    assert verdicts(tmp_path).judged.sum(axis=0).tolist() == [0, 0, 0, 3]


def test_a_run_that_was_broken_off_goes_on_with_the_rest(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies_late(request: Request) -> Completion:
        if candidate(request) == "record 5, level 1":
            raise KeyboardInterrupt
        return verdict(request, candidate(request) in RIGHT)

    with monkeypatch.context() as patch:
        answer_as(patch, dies_late, first := [])
        with pytest.raises(KeyboardInterrupt):
            judge_negatives(tmp_path, RECORDS, CONFIG)
    assert not (tmp_path / "judged").exists()
    journals = list(tmp_path.glob("work/judge/*/*.journal"))
    records_journal = max(journals, key=lambda path: path.stat().st_mtime_ns)
    with records_journal.open("r+b") as file:
        file.truncate(records_journal.stat().st_size - 3)  # power was lost: the last entry is torn
    made = judge_negatives(tmp_path, RECORDS, CONFIG)
    assert len(asked) == 24 - 15, "of the first 16 answers one was torn"
    assert made["judged"] == 24
    assert len({*first, *asked}) == len(LABELLED) + 24
    asked.clear()
    again = judge_negatives(tmp_path, RECORDS, CONFIG)
    assert asked == []
    assert again == made


def test_bad_answers_never_end_a_run_and_are_asked_for_again(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {
        "record 0, level 1": lambda request: Completion(request.unit_id, "Sure! {", "stop", 100, 10),
        "record 1, level 2": lambda request: Completion(request.unit_id, "", "refused", 0, 0, error="no"),
        "record 2, level 3": lambda request: Completion(
            request.unit_id, '{"reason": "r", "right_answer": "yes"}', "stop", 100, 10
        ),
        LABELLED[3].negative: lambda request: Completion(request.unit_id, '{"rea', "length", 100, 10),
    }

    def answer(request: Request) -> Completion:
        return bad.get(candidate(request), lambda one: verdict(one, candidate(one) in RIGHT))(request)

    with monkeypatch.context() as patch:
        answer_as(patch, answer)
        made = judge_negatives(tmp_path, RECORDS, CONFIG)
    assert made["judged"] == 21
    assert made["agreement"]["judged"] == len(LABELLED) - 1
    assert made["cost"]["without_verdict"] == {
        "finish:length": 1,
        "finish:refused": 1,
        "not_json": 1,
        "wrong_type:right_answer": 1,
    }
    assert verdicts(tmp_path).judged.sum() == 21
    rows = pq.read_table(tmp_path / "judged" / "verdicts.parquet").to_pylist()
    assert {
        (row["record_id"], row["level"]): row["reason"] for row in rows if row["right_answer"] is None
    } == {
        ("r0", 1): "not_json",
        ("r1", 2): "finish:refused",
        ("r2", 3): "wrong_type:right_answer",
    }
    made = judge_negatives(tmp_path, RECORDS, CONFIG)
    assert sorted(asked) == sorted(bad)
    assert (made["judged"], made["cost"]["without_verdict"]) == (24, {})
    assert made["cost"]["calls"] == len(LABELLED) + 24 + 4, "bad answers cost calls too"


@pytest.mark.parametrize("order", [1, -1])
def test_an_old_answer_without_a_verdict_does_not_outlive_a_verdict(order: int) -> None:
    request = NegativeJudge(CONFIG).request(Question.labelled(LABELLED[0]))
    answers = Answers()
    for one in [Completion(request.unit_id, "Sure!", "stop", 1, 1), verdict(request, True)][::order]:
        answers.add(one)  # journals have names drawn by lot, and are read in their order
    assert answers.cost()["without_verdict"] == {}
    assert answers.verdicts[request.unit_id].right_answer


def test_a_judge_without_a_verdict_is_not_asked_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answer_as(monkeypatch, lambda one: Completion(one.unit_id, "I'd rather not.", "stop", 1, 1), asked)
    with pytest.raises(MghError, match=r"oracle gave no verdict on any of 58 .* not_json \(58\).*rather not"):
        judge_negatives(tmp_path, RECORDS, CONFIG)
    assert asked == [one.negative for one in LABELLED]
    assert not (tmp_path / "judged").exists()


def test_a_judge_of_the_labelled_set_alone_leaves_the_old_verdicts(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_negatives(tmp_path, RECORDS, CONFIG)
    before = (tmp_path / "judged" / "verdicts.parquet").read_bytes()
    known = {one.negative for one in LABELLED}
    answer_as(
        monkeypatch,
        lambda one: (
            verdict(one, True)
            if candidate(one) in known
            else Completion(one.unit_id, "", "error", 0, 0, error="moderated")
        ),
    )
    other = CONFIG.replace(engine=CONFIG.engine.replace(model="sulker"))
    with pytest.raises(MghError, match=r"sulker gave no verdict on any of 24 negatives.*moderated"):
        judge_negatives(tmp_path, RECORDS, other)
    assert (tmp_path / "judged" / "verdicts.parquet").read_bytes() == before
    assert asked.count("record 0, level 4") == 1


def test_a_negative_that_kills_the_engine_is_given_up_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deadly(request: Request) -> Completion:
        if candidate(request) == "record 4, level 2":
            raise EngineDied("out of memory")
        return verdict(request, candidate(request) in RIGHT)

    answer_as(monkeypatch, deadly)
    made = judge_negatives(tmp_path, RECORDS, CONFIG)
    assert made["judged"] == 23
    assert made["cost"]["without_verdict"] == {"finish:quarantined": 1}


def test_verdicts_belong_to_their_texts_and_their_judge(tmp_path: Path, asked: list[str]) -> None:
    judge_negatives(tmp_path, RECORDS, CONFIG)
    changed = [RECORDS[0].model_copy(update={"query": "another query"}), *RECORDS[1:]]
    assert verdicts(tmp_path, changed).judged.all(axis=1).tolist() == [False] + [True] * 5
    asked.clear()
    judge_negatives(tmp_path, changed, CONFIG)
    assert asked == [f"record 0, level {level}" for level in (1, 2, 3, 4)]
    for other in (
        CONFIG.replace(engine=CONFIG.engine.replace(model="another")),
        CONFIG.replace(sampling=CONFIG.sampling.replace(temperature=0.5)),
    ):
        asked.clear()
        judge_negatives(tmp_path, RECORDS, other)
        assert len(asked) == len(LABELLED) + 24


def test_two_processes_do_not_ask_the_same_judge(tmp_path: Path, asked: list[str]) -> None:
    def judge_meanwhile(_count: int) -> None:
        with pytest.raises(MghError, match="another process asks this judge already"):
            judge_negatives(tmp_path, RECORDS, CONFIG)

    judge_negatives(tmp_path, RECORDS, CONFIG, progress=judge_meanwhile)
    assert len(asked) == len(LABELLED) + 24


def test_damaged_verdicts_are_named(tmp_path: Path, asked: list[str]) -> None:
    judge_negatives(tmp_path, RECORDS, CONFIG)
    (tmp_path / "judged" / "verdicts.parquet").write_bytes(b"PAR1")
    with pytest.raises(MghError, match=r"verdicts\.parquet cannot be read"):
        read_judge(tmp_path)
    assert asked
