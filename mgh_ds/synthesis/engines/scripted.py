"""The scripted engine: pseudo-text drawn from the unit's id, with delays, bad answers, deaths and silences on
demand. For tests and dry runs; its answers depend on the unit alone, never on order or time."""

import heapq
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from mgh_ds.synthesis.config import EngineConfig
from mgh_ds.synthesis.engines.port import Completion, Engine, EngineDied, FinishReason, Request
from mgh_ds.synthesis.levels import LEVEL_OF, NEGATIVE_LEVELS
from mgh_ds.synthesis.units import uniform

STOP: FinishReason = "stop"
SYLLABLES = [consonant + vowel for consonant in "bdgklmnprstv" for vowel in "aiou"]
WORDS = ["".join(syllables) for syllables in itertools.product(SYLLABLES, repeat=2)]


def check(config: EngineConfig) -> None:
    """Nothing can be wrong."""


def open_engine(config: EngineConfig, _log: Path) -> Engine:
    """It prints nothing, so its log stays empty."""
    return ScriptedEngine(config)


class ScriptedEngine:
    """Answers each request after `delay_s` × (0.5 … 1.5). Implements `Engine`."""

    version = "scripted 1"

    def __init__(self, config: EngineConfig):
        self.settings = config.scripted
        self.last_progress = time.monotonic()
        self._waiting: list[tuple[float, int, Request]] = []
        self._submitted = 0
        self._silent = False

    def submit(self, requests: Sequence[Request]) -> None:
        now = time.monotonic()
        for request in requests:
            self._silent |= _draw(request, "hang") < self.settings.hang
            due = now + self.settings.delay_s * (0.5 + uniform(request.unit_id, "delay"))
            heapq.heappush(self._waiting, (due, self._submitted, request))
            self._submitted += 1

    def poll(self, timeout_s: float) -> list[Completion]:
        if self._silent or not self._waiting:
            time.sleep(timeout_s)
            return []
        time.sleep(min(timeout_s, max(0.0, self._waiting[0][0] - time.monotonic())))
        done, now = [], time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            request = heapq.heappop(self._waiting)[2]
            if _draw(request, "crash") < self.settings.crash:
                raise EngineDied("the script says so")
            done.append(self._answer(request))
        if done:
            self.last_progress = now
        return done

    def close(self) -> None:
        self._waiting.clear()

    def _answer(self, request: Request) -> Completion:
        random = Random(request.unit_id)
        answer = write_answer(random, request.schema)
        text, reason = json.dumps(answer), STOP
        if _draw(request, "invalid") < self.settings.invalid:
            text, reason = corrupt(random, answer)
        return Completion(
            unit_id=request.unit_id,
            text=text,
            finish_reason=reason,
            tokens_in=sum(message["content"].count(" ") + 1 for message in request.messages),
            tokens_out=text.count(" ") + 1,
        )


def write_answer(random: Random, schema: dict[str, Any]) -> dict[str, Any]:
    """An answer of the shape that the schema of either stage, or of a judge, asks for; harder negatives share
    more words with the positive, and verdicts are drawn by lot."""
    if "right_answer" in schema["properties"]:
        return {"reason": _words(random, 6), "right_answer": random.random() < 0.5}
    if "tasks" in schema["properties"]:
        count = schema["properties"]["tasks"]["minItems"]
        pairs = [(_words(random, 4), _words(random, 5)) for _ in range(count)]
        return {"tasks": [f"Given {given}, retrieve {wanted}" for given, wanted in pairs]}
    positive = _text(random, random.randint(30, 60))
    texts = {"query": " ".join(positive[:6]) + "?", "positive": " ".join(positive) + "."}
    for name, level in LEVEL_OF.items():
        own = round(NEGATIVE_LEVELS[level].shared_words * len(positive))
        texts[name] = " ".join(positive[:own] + _text(random, len(positive) - own)) + "."
    return texts


def corrupt(random: Random, answer: dict[str, Any]) -> tuple[str, FinishReason]:
    """A bad answer, of one of five kinds."""
    text = json.dumps(answer)
    last = list(answer)[-1]
    kind = random.randrange(5)
    if kind == 0:
        return text[: len(text) // 2], "length"
    if kind == 1:
        return "Sure! " + text, STOP
    if kind == 2:
        return json.dumps({**answer, last: ""}), STOP
    if kind == 3:
        return json.dumps({**answer, "comment": "done"}), STOP
    return json.dumps({**answer, last: answer[next(iter(answer))] if len(answer) > 1 else []}), STOP


def _draw(request: Request, name: str) -> float:
    """What falls to this request; probes are spared, as they are no units."""
    return uniform(request.unit_id, name) if request.unit_id != "probe" else 1.0


def _text(random: Random, count: int) -> list[str]:
    """Words at equal strides through the list, from a place drawn: faster than drawing each."""
    start, stride = random.randrange(len(WORDS)), random.randrange(1, len(WORDS))
    return [WORDS[(start + index * stride) % len(WORDS)] for index in range(count)]


def _words(random: Random, count: int) -> str:
    return " ".join(random.choices(WORDS, k=count))
