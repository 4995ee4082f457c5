"""vLLM itself, with a tiny random model and SmolLM2: answers keep the schema, and all that goes wrong ends in
order.
"""

import dataclasses
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.model.tiny import make_tiny_model
from mgh_ds.model.weights import SMOLLM2
from mgh_ds.synthesis.config import EngineConfig, Sampling, VllmConfig
from mgh_ds.synthesis.engines.port import Completion, EngineDied, Request
from mgh_ds.synthesis.engines.vllm_process import VllmEngine
from tests.system.smollm2 import needs_smollm2
from tests.system.vllm_marks import ENGINES

pytestmark = [*ENGINES, pytest.mark.timeout(900)]

NAMES = ["query", "positive", "negative"]
SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string", "minLength": 1} for name in NAMES},
    "required": NAMES,
    "additionalProperties": False,
}
SMALL = VllmConfig(
    dtype="float32",
    max_model_len=2048,
    max_num_seqs=8,
    max_num_batched_tokens=2048,
    gpu_memory_utilization=0.2,
    enforce_eager=True,
    kv_cache_gib=0.25,
)


def request(name: str, content: str = "Write about boats.", **sampling: object) -> Request:
    messages = [{"role": "system", "content": "You write."}, {"role": "user", "content": content}]
    return Request(name, messages, SCHEMA, Sampling(**{"max_tokens": 1024, **sampling}), 0)  # type: ignore[arg-type]


def collect(engine: VllmEngine, count: int) -> dict[str, Completion]:
    finished: list[Completion] = []
    until = time.monotonic() + 300
    while len(finished) < count:
        assert time.monotonic() < until
        finished += engine.poll(1.0)
    return {completion.unit_id: completion for completion in finished}


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, owner = path.read_text().rsplit(")", 1)[1].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(owner) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "chat"
    make_tiny_model("chat", folder)
    return folder


@pytest.fixture
def config(model: Path) -> EngineConfig:
    return EngineConfig(kind="vllm", model=str(model), vllm=SMALL)


@pytest.fixture
def engine(config: EngineConfig, tmp_path: Path) -> Iterator[VllmEngine]:
    engine = VllmEngine(config, tmp_path / "vllm.log")
    yield engine
    engine.close()


def test_answers_keep_the_schema_and_a_bad_request_ends_alone(engine: VllmEngine) -> None:
    engine.submit([request(str(number)) for number in range(24)])
    assert engine.version.startswith("vllm 0.32.0")
    engine.submit([request("long", "boat " * 4000), request("cut", max_tokens=5)])
    finished = collect(engine, 26)
    assert (finished["long"].finish_reason, finished["long"].tokens_out) == ("refused", 0)
    assert "2048" in finished["long"].error
    assert (finished["cut"].finish_reason, finished["cut"].tokens_out) == ("length", 5)
    whole = [finished[str(number)] for number in range(24) if finished[str(number)].finish_reason == "stop"]
    assert len(whole) >= 20
    for completion in whole:
        answer = json.loads(completion.text)
        assert list(answer) == NAMES
        assert all(isinstance(text, str) and text for text in answer.values())
        assert completion.tokens_in == finished["0"].tokens_in > 10
        assert 0 < completion.tokens_out < 1024
    assert len({completion.text for completion in whole}) == len(whole)

    # The tiny model is made so that a string ends after some 20 to 60 tokens.
    mean = sum(completion.tokens_out for completion in whole) / len(whole) / len(NAMES)
    assert 15 < mean < 80

    # New work joins a running engine, and what no retry can mend is said in words.
    engine.submit([request("more")])
    assert collect(engine, 1)["more"].finish_reason == "stop"
    refused = {
        **SCHEMA,
        "properties": {"query": {"type": "array", "uniqueItems": True}},
        "required": ["query"],
    }
    engine.submit([dataclasses.replace(request("schema"), schema=refused)])
    with pytest.raises(MghError, match="refuses the JSON schema"):
        engine.poll(60.0)


@needs_smollm2
def test_a_real_model_keeps_the_schema_and_to_the_matter(config: EngineConfig, tmp_path: Path) -> None:
    engine = VllmEngine(config.replace(model=SMOLLM2), tmp_path / "vllm.log")
    try:
        asked = {"content": "Write three sentences about boats.", "temperature": 0.6, "max_tokens": 256}
        engine.submit([request(str(number), **asked) for number in range(16)])
        finished = collect(engine, 16)
    finally:
        engine.close()
    answers = [json.loads(one.text) for one in finished.values() if one.finish_reason == "stop"]
    assert len(answers) >= 8
    assert all(list(answer) == NAMES and all(answer.values()) for answer in answers)
    # Random weights would hardly hit upon the word.
    assert sum("boat" in " ".join(answer.values()).lower() for answer in answers) > len(answers) / 2


def test_a_dead_engine_core_is_reported_and_close_leaves_nothing_behind(engine: VllmEngine) -> None:
    engine.submit([request(str(number)) for number in range(50)])
    group = engine._process.pid
    cache = Path(engine._cache)
    others = [pid for pid in members(group) if pid != group]
    assert others
    for pid in others:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineDied, match=r"vllm\.log"):
        collect(engine, 50)
    engine.close()
    assert members(group) == []
    assert not cache.exists()


def test_a_start_without_memory_says_so(config: EngineConfig, tmp_path: Path) -> None:
    greedy = config.replace(vllm=SMALL.replace(kv_cache_gib=1e5))
    engine = VllmEngine(greedy, tmp_path / "vllm.log")
    try:
        with pytest.raises(MghError, match=r"(?s)could not start.*emory.*vllm\.log"):
            engine.submit([request("0")])
    finally:
        engine.close()
