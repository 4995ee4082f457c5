"""Has a language model judge negatives, keeps what it says, and reads it back for the audit.

    DIR/work/judge/NAME/*.journal    its answers as they came; NAME stands for model, prompt and sampling
    DIR/judged/verdicts.parquet      a row a negative that was asked about: the verdict and the judge's reason
               judge.json            who it was, its agreement with the labelled set, its cost

A restart asks for what is missing, and records that were made anew are judged anew. Answers that hold no
verdict are asked for again by the next run.
"""

import contextlib
import itertools
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mgh_ds.audit.agreement import agreement, labelled_set
from mgh_ds.audit.false_negatives import Judge, Verdicts, no_verdicts
from mgh_ds.audit.inputs import Int64s, graded_negatives, sample_rows, with_progress
from mgh_ds.audit.inputs import Progress as AuditProgress
from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.schema import Record
from mgh_ds.synthesis.answers import Refused, Verdict, read_verdict
from mgh_ds.synthesis.asking import ask
from mgh_ds.synthesis.config import JudgeConfig
from mgh_ds.synthesis.counts import Counts
from mgh_ds.synthesis.engines.opening import check_engine, open_engine
from mgh_ds.synthesis.engines.port import Completion, Request
from mgh_ds.synthesis.journal import Journal, read_journal
from mgh_ds.synthesis.judge import NegativeJudge, Question
from mgh_ds.synthesis.supervisor import EngineSupervisor

SYNC_S = 2.0
COLUMNS = pa.schema(
    [
        ("question_id", pa.string()),
        ("record_id", pa.string()),
        ("level", pa.int8()),
        ("right_answer", pa.bool_()),  # null: no verdict, and `reason` says why
        ("reason", pa.string()),
    ]
)

Progress = Callable[[int], object]  # called with numbers of questions that have their answer


@dataclass
class Answers:
    """What a judge has said so far, by question, and what all its calls cost."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    without_verdict: dict[str, str] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    last_words: str = ""  # of an answer without a verdict

    def add(self, completion: Completion) -> None:
        """Counts a call's end and reads its verdict, if it holds one."""
        try:
            verdict = read_verdict(completion.text, completion.finish_reason)
        except Refused as refused:
            self.counts.add(completion, str(refused))
            if completion.unit_id not in self.verdicts:  # journals are read in no order of time
                self.without_verdict[completion.unit_id] = str(refused)
            self.last_words = (completion.error or completion.text)[:200]
        else:
            self.counts.add(completion, "")
            self.without_verdict.pop(completion.unit_id, None)
            self.verdicts[completion.unit_id] = verdict

    def cost(self) -> dict[str, Any]:
        """The calls, their tokens (None where the engine counted none), of how many answers it counted them,
        and the questions still without a verdict by reason."""
        reasons, counts = Counter(self.without_verdict.values()), self.counts
        return {
            "calls": counts.units,
            "tokens_in": counts.tokens_in if counts.counted_in or not counts.answered else None,
            "tokens_out": counts.tokens_out if counts.counted_out or not counts.answered else None,
            "answered": counts.answered,
            "counted_in": counts.counted_in,
            "counted_out": counts.counted_out,
            "without_verdict": dict(sorted(reasons.items())),
        }


def judge_negatives(
    folder: Path,
    records: Sequence[Record],
    config: JudgeConfig,
    *,
    levels: Sequence[int] = LEVELS,
    sample: int | None = None,
    seed: int = 0,
    progress: Progress = lambda _count: None,
) -> dict[str, Any]:
    """Asks about the negatives of these levels, of all `records` or of a sample, and replaces
    `folder`/judged; returns what its `judge.json` holds.

    What the same judge has said of other levels and records, in earlier calls, stays in it. The labelled set
    comes first: a judge that gives no verdict on it is not asked further. What came back is kept whatever
    happens, and the same call goes on with the rest. Raises MghError if another process judges here, for what
    no retry of the engine can mend, and for a judge without verdicts.
    """
    check_engine(config.engine)
    judge = NegativeJudge(config)
    rows = sample_rows(len(records), sample, seed).tolist()
    labelled = [Question.labelled(one) for one in labelled_set()]
    name = judge.id[:16]
    work = folder / "work" / "judge" / name
    work.mkdir(parents=True, exist_ok=True)
    log = folder / "logs" / f"judge-{name}.log"
    supervisor = EngineSupervisor(partial(open_engine, config.engine, log), config.engine.start_s)
    with _held(work), contextlib.closing(supervisor):
        answers = _read_answers(work)
        _ask_missing(judge, labelled, answers, supervisor, work, progress)
        agreed = _agreement(judge, labelled, answers)
        questions = (question for _, _, question in _questions(records, rows, levels))
        _ask_missing(judge, questions, answers, supervisor, work, progress)
    asked = {question.id(judge.id) for _, _, question in _questions(records, rows, levels)}
    return _write(folder, judge, agreed, _questions(records, range(len(records)), LEVELS), asked, answers)


def read_judge(folder: Path) -> Judge | None:
    """The language model that judged in `folder`, as the audit's judge; None if none did.

    It speaks of those records alone whose texts it saw. Raises MghError if its files are damaged.
    """
    if not (folder / "judged" / "judge.json").exists():
        return None
    content = files.read_json(folder / "judged" / "judge.json")
    path = folder / "judged" / "verdicts.parquet"
    try:
        table = pq.read_table(path, filters=pc.field("right_answer").is_valid())
    except (pa.ArrowException, OSError) as error:
        raise MghError(
            f"{path} cannot be read: {str(error).splitlines()[0]}; run synth judge again"
        ) from None
    said = {row["question_id"]: row for row in table.to_pylist()}

    def judge(records: Sequence[Record], _rows: Int64s, progress: AuditProgress) -> Verdicts:
        found, judged = no_verdicts(len(records)), no_verdicts(len(records))
        reasons = {}
        for row, record in enumerate(with_progress(records, "verdicts", progress)):
            for at, negative in enumerate(graded_negatives(record)):
                verdict = said.get(Question.of(record, negative).id(content["judge_id"]))
                if verdict is not None:
                    judged[row, at], found[row, at] = True, verdict["right_answer"]
                    if verdict["right_answer"]:
                        reasons[row, at] = verdict["reason"]
        return Verdicts(content["judge"], found, judged, content["agreement"], reasons, content["cost"])

    return judge


@contextlib.contextmanager
def _held(work: Path) -> Iterator[None]:
    lock = files.hold_folder(
        work,
        held=f"another process asks this judge already: its answers are in {work}",
        lockless="let no second process judge here meanwhile",
    )
    try:
        yield
    finally:
        if lock:
            lock.close()


def _read_answers(work: Path) -> Answers:
    answers = Answers()
    for path in sorted(work.glob("*.journal")):
        for entry in read_journal(path):
            answers.add(Completion(**entry))
    return answers


def _ask_missing(
    judge: NegativeJudge,
    questions: Iterable[Question],
    answers: Answers,
    supervisor: EngineSupervisor,
    work: Path,
    progress: Progress,
) -> None:
    """Asks what has no verdict yet, and keeps what comes back at once."""

    def missing() -> Iterator[Request]:
        for question in questions:
            if question.id(judge.id) in answers.verdicts:
                progress(1)
            else:
                yield judge.request(question)

    requests = missing()
    first = next(requests, None)
    if first is None:
        return  # no engine is started for nothing
    journal, synced = Journal(work / f"{secrets.token_hex(6)}.journal"), time.monotonic()
    try:
        for came in ask(itertools.chain([first], requests), judge.probes(), supervisor, judge.config.engine):
            journal.append([asdict(one) for one in came])
            for one in came:
                answers.add(one)
            progress(len(came))
            if time.monotonic() - synced >= SYNC_S:
                journal.sync()
                synced = time.monotonic()
    finally:
        journal.sync()
        journal.close()


def _agreement(judge: NegativeJudge, labelled: Sequence[Question], answers: Answers) -> dict[str, Any]:
    """Raises MghError for a judge that gave no verdict on any of the labelled negatives."""
    verdicts = [answers.verdicts.get(question.id(judge.id)) for question in labelled]
    if not any(verdicts):
        reasons = ", ".join(
            f"{reason} ({count})" for reason, count in answers.cost()["without_verdict"].items()
        )
        raise MghError(
            f"{judge.config.engine.model} gave no verdict on any of {len(labelled)} labelled negatives: "
            f"{reasons}; its last words: {answers.last_words!r}. It was asked nothing else; mend engine or "
            "sampling and run again"
        )
    found = [verdict.right_answer if verdict else None for verdict in verdicts]
    return agreement(found, [one.false_negative for one in labelled_set()])


def _questions(
    records: Sequence[Record], rows: Sequence[int], levels: Sequence[int]
) -> Iterator[tuple[str, int, Question]]:
    """Record, level and question of each negative that is to be judged."""
    # A store reads many at a time where all are wanted, and where few are, one.
    chosen = records if len(rows) == len(records) else (records[row] for row in rows)
    for record in chosen:
        for level, negative in zip(LEVELS, graded_negatives(record), strict=True):
            if level in levels:
                yield record.id, level, Question.of(record, negative)


def _write(
    folder: Path,
    judge: NegativeJudge,
    agreed: dict[str, Any],
    questions: Iterable[tuple[str, int, Question]],
    asked: Set[str],
    answers: Answers,
) -> dict[str, Any]:
    """Replaces `judged/` in one step, by all that this judge has answered of `questions`. Raises MghError if
    none that was `asked` now has a verdict."""
    rows: list[dict[str, Any]] = []
    for record_id, level, question in questions:
        question_id = question.id(judge.id)
        row = {"question_id": question_id, "record_id": record_id, "level": level}
        if verdict := answers.verdicts.get(question_id):
            rows.append(row | asdict(verdict))
        elif reason := answers.without_verdict.get(question_id):
            rows.append(row | {"right_answer": None, "reason": reason})
    judged = [row["right_answer"] for row in rows if row["right_answer"] is not None]
    if asked.isdisjoint(answers.verdicts):
        raise MghError(
            f"{judge.config.engine.model} gave no verdict on any of {len(asked)} negatives; its last words: "
            f"{answers.last_words!r}. Nothing was written; mend engine or sampling and run again"
        )
    engine = judge.config.engine
    content = {
        "judge": f"{engine.model}, a language model ({engine.kind})",
        "judge_id": judge.id,
        "identity": judge.identity,
        "negatives": len(rows),
        "judged": len(judged),
        "found": sum(judged),
        "agreement": agreed,
        "cost": answers.cost(),
    }
    with files.new_folder(folder / "judged", replace=True) as made:
        table = pa.Table.from_pylist(rows, schema=COLUMNS)
        pq.write_table(table, made / "verdicts.parquet", compression="zstd")
        files.write_json(made / "judge.json", content)
    return content
