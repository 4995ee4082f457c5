"""A language model as the judge of false negatives: what it is asked of one negative.

A question's id is a hash of the judge and of all texts that it sees, so an answer belongs to just these
texts.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from jinja2 import Environment, StrictUndefined

from mgh_ds.audit.agreement import LabelledNegative, labelled_set
from mgh_ds.records.schema import Record
from mgh_ds.synthesis.config import JudgeConfig
from mgh_ds.synthesis.engines.port import Request
from mgh_ds.synthesis.plan import ENGINE_IDENTITY
from mgh_ds.synthesis.schemas import verdict_schema
from mgh_ds.synthesis.units import ID_BYTES, seed_of

PROMPT = Path(__file__).with_name("judge.jinja")
PROBES = 3  # of which one may well be refused for what it says


@dataclass(frozen=True, slots=True)
class Question:
    """Is this negative a right answer to the query? All that the judge sees of it."""

    kind: str
    instruction: str
    query: str
    positive: str
    negative: str

    @classmethod
    def of(cls, record: Record, negative: str) -> Self:
        task = record.task
        return cls(task.kind, task.instruction, record.query, record.positive, negative)

    @classmethod
    def labelled(cls, one: LabelledNegative) -> Self:
        return cls(one.kind, one.instruction, one.query, one.positive, one.negative)

    def id(self, judge_id: str) -> str:
        """What this question is called when that judge is asked it."""
        parts = "\0".join((judge_id, *asdict(self).values()))
        return hashlib.blake2b(parts.encode(), digest_size=ID_BYTES).hexdigest()


class NegativeJudge:
    """A language model with its prompt. `id` changes with whatever may change its verdicts."""

    def __init__(self, config: JudgeConfig) -> None:
        text = PROMPT.read_text(encoding="utf-8")
        environment = Environment(undefined=StrictUndefined, trim_blocks=True, autoescape=False)  # plain text
        self._template = environment.from_string(text)
        self.config, self.schema = config, verdict_schema()
        engine = {name: getattr(config.engine, name) for name in ENGINE_IDENTITY}
        engine["scripted"] = config.engine.scripted.model_dump()
        self.identity = {
            "engine": engine,
            "sampling": config.sampling.model_dump(),
            "prompt": hashlib.sha256(text.encode()).hexdigest(),
            "schema": self.schema,
        }
        identity = json.dumps(self.identity, sort_keys=True)
        self.id = hashlib.blake2b(identity.encode(), digest_size=ID_BYTES).hexdigest()

    def request(self, question: Question) -> Request:
        """The question as a call."""
        question_id = question.id(self.id)
        messages = [{"role": "user", "content": self._template.render(asdict(question)).strip()}]
        return Request(question_id, messages, self.schema, self.config.sampling, seed_of(question_id))

    def probes(self) -> list[Request]:
        """Real questions under other names: what this engine cannot be asked shows here."""
        requests = [self.request(Question.labelled(one)) for one in labelled_set()[:PROBES]]
        return [replace(request, unit_id=f"probe-judge-{number}") for number, request in enumerate(requests)]
