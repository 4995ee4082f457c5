"""The process around vLLM: the protocol, the deaths and the ends, with a stand-in for vLLM itself."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.config import EngineConfig, Sampling
from mgh_ds.synthesis.engines import model_folder, vllm_process
from mgh_ds.synthesis.engines.model_folder import check_chat_template, local_folder
from mgh_ds.synthesis.engines.port import Completion, EngineDied, Request
from mgh_ds.synthesis.engines.vllm_process import VllmEngine
from mgh_ds.synthesis.engines.wire import Inbox, pack, request_from_json, request_to_json

FAKE = "tests.synthesis.fake_vllm"


def request(content: str, name: str = "a") -> Request:
    return Request(name, [{"role": "user", "content": content}], {"type": "object"}, Sampling(), 7)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture
def start(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., VllmEngine]]:
    monkeypatch.setattr(vllm_process, "CHILD", FAKE)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    engines = []

    def start(how: str = "", start_s: float = 20.0) -> VllmEngine:
        (model / "how").write_text(how)
        engines.append(
            VllmEngine(EngineConfig(kind="vllm", model=str(model), start_s=start_s), model / "logs" / "log")
        )
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def collect(engine: VllmEngine, count: int) -> list[Completion]:
    finished: list[Completion] = []
    until = time.monotonic() + 20
    while len(finished) < count and time.monotonic() < until:
        finished += engine.poll(1.0)
    return finished


def pids(model: Path) -> list[int]:
    until = time.monotonic() + 20
    while not (model / "pids").exists() or len((model / "pids").read_text().split()) < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    return [int(pid) for pid in (model / "pids").read_text().split()]


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet has ended too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(processes: list[int]) -> None:
    until = time.monotonic() + 60
    while not all(map(gone, processes)):
        assert time.monotonic() < until, f"still alive: {[pid for pid in processes if not gone(pid)]}"
        time.sleep(0.01)


def test_requests_come_back_with_the_engines_version(start: Callable[..., VllmEngine]) -> None:
    engine = start()
    engine.submit([request("hello there", "a"), request("refuse", "b")])
    assert engine.version == "vllm fake"
    engine.submit([request("\ud800 é\x00 😀", "c")])
    finished = {completion.unit_id: completion for completion in collect(engine, 3)}
    assert finished["a"] == Completion("a", "hello", "stop", 2, 1)
    assert (finished["b"].finish_reason, finished["b"].error) == ("refused", "too long")
    assert finished["c"].text == "\ud800"
    assert engine.poll(0.0) == []


def test_more_than_a_socket_holds_goes_both_ways(start: Callable[..., VllmEngine]) -> None:
    engine = start()
    long = "x" * 1_000_000
    engine.submit([request(f"{long} 1", str(number)) for number in range(20)])
    assert {completion.text for completion in collect(engine, 20)} == {long}


def test_requests_join_while_others_run(start: Callable[..., VllmEngine]) -> None:
    engine = start()
    engine.submit([request("steps 40", "slow")])
    engine.submit([request("quick", "quick")])
    assert [completion.unit_id for completion in collect(engine, 2)] == ["quick", "slow"]


def test_steps_without_an_end_count_as_progress_and_silence_does_not(
    start: Callable[..., VllmEngine],
) -> None:
    engine = start()
    engine.submit([request("steps 30")])
    before = engine.last_progress
    while not engine.poll(0.1):
        assert time.monotonic() - engine.last_progress < 5
    assert engine.last_progress > before + 1
    engine.submit([request("hang")])
    before = engine.last_progress
    engine.poll(1.2)
    assert engine.last_progress == before


@pytest.mark.parametrize(("word", "says"), [("die", "killed by signal 9"), ("raise", "encountered an issue")])
def test_a_death_is_reported_after_what_was_finished(
    word: str, says: str, start: Callable[..., VllmEngine], model: Path
) -> None:
    engine = start()
    engine.submit([request("good", "a"), request(word, "b"), request("good", "c")])
    assert [completion.unit_id for completion in collect(engine, 1)] == ["a"]
    for _ in range(2):
        with pytest.raises(EngineDied, match=says):
            engine.poll(20.0)
    with pytest.raises(EngineDied, match="logs/log"):
        engine.submit([request("good")])
    engine.close()
    wait_until_gone(pids(model))


def test_what_no_retry_can_mend_is_an_error_for_the_user(start: Callable[..., VllmEngine]) -> None:
    engine = start()
    engine.submit([request("schema")])
    with pytest.raises(MghError, match=r"the schema is refused.*log"):
        engine.poll(20.0)


def test_a_failed_start_names_the_root_cause_and_the_log(start: Callable[..., VllmEngine]) -> None:
    engine = start("raise")
    with pytest.raises(MghError, match=r"(?s)torch.OutOfMemoryError: no 80 GiB left.*logs/log.*kv_cache_gib"):
        engine.submit([request("good")])


def test_a_death_while_starting_is_a_death(start: Callable[..., VllmEngine]) -> None:
    with pytest.raises(EngineDied, match="killed by signal 9"):
        start("killed").poll(1.0)


def test_a_start_has_its_time(start: Callable[..., VllmEngine]) -> None:
    with pytest.raises(MghError, match=r"not ready after 0\.5 s"):
        start("slow", start_s=0.5).submit([request("good")])


@pytest.mark.parametrize("word", ["hang", "steps 1000"])
def test_close_ends_all_processes_and_their_files(
    word: str, start: Callable[..., VllmEngine], model: Path
) -> None:
    engine = start()
    engine.submit([request(word)])
    engine.poll(0.1)
    cache = Path((model / "cache").read_text())
    assert cache.is_dir()
    engine.close()
    engine.close()
    assert all(gone(pid) for pid in pids(model))
    assert not cache.exists()


def test_a_worker_killed_with_minus_9_takes_all_processes_along(model: Path) -> None:
    code = f"""
import importlib.util, time
from pathlib import Path
from mgh_ds.synthesis.config import EngineConfig
from mgh_ds.synthesis.engines import vllm_process
vllm_process.CHILD = {FAKE!r}
importlib.util.find_spec = lambda _: object()
config = EngineConfig(kind="vllm", model={str(model)!r})
engine = vllm_process.VllmEngine(config, Path({str(model / "log")!r}))
engine.poll(0.1)
time.sleep(1000)
"""
    worker = subprocess.Popen([sys.executable, "-c", code])
    try:
        processes = pids(model)
        assert not any(map(gone, processes))
        os.kill(worker.pid, signal.SIGKILL)
        wait_until_gone(processes)
        until = time.monotonic() + 5
        while Path((model / "cache").read_text()).exists():
            assert time.monotonic() < until
    finally:
        worker.kill()
        worker.wait()


def test_neither_vllm_nor_torch_is_imported_by_the_worker() -> None:
    code = (
        "import sys, mgh_ds.synthesis.engines.vllm_process, mgh_ds.synthesis.engines.endpoint;"
        "print([name for name in ('vllm', 'torch', 'openai', 'transformers') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_without_vllm_the_error_says_how_to_get_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MghError, match="make vllm"):
        VllmEngine(EngineConfig(kind="vllm", model=str(model)), model / "log")


def test_a_model_folder_must_exist_and_chat(model: Path, tmp_path: Path) -> None:
    check_chat_template(str(model))
    check_chat_template("Qwen/Qwen3-8B")
    assert local_folder("Qwen/Qwen3-8B") is None
    with pytest.raises(MghError, match="not a folder"):
        check_chat_template(str(tmp_path / "missing"))
    (model / "chat_template.jinja").unlink()
    for content in (None, "{}", '{"chat_template": null}'):
        if content is not None:
            (model / "tokenizer_config.json").write_text(content)
        with pytest.raises(MghError, match="no chat template"):
            check_chat_template(str(model))
    (model / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    check_chat_template(str(model))
    (model / "config.json").unlink()
    with pytest.raises(MghError, match=r"config\.json is missing"):
        check_chat_template(str(model))


@pytest.mark.usefixtures("start")
def test_vllm_gets_a_folder_in_the_place_of_a_gguf_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("mgh_ds.model.weights.resolve_model", lambda name: asked.append(name) or model)
    file = tmp_path / "some.gguf"
    file.write_bytes(b"GGUF")
    names = [str(file), "HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"]
    for name in names:
        check_chat_template(name)  # when the plan is made: nothing is dequantised for that
        assert local_folder(name) is None
    assert not asked
    for name in names:
        engine = VllmEngine(EngineConfig(kind="vllm", model=name), tmp_path / "log")
        assert engine._config.model == str(model)
        engine.close()
    assert asked == names
    assert model_folder.dequantised_model("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    assert model_folder.dequantised_model(str(model)) == str(model)


def test_messages_survive_any_cutting_of_the_stream() -> None:
    messages = [{"text": "\ud800 é\x00", "number": number, "empty": {}} for number in range(5)]
    stream = b"".join(map(pack, messages))
    for size in (1, 2, 3, 7, 50, len(stream)):
        inbox = Inbox()
        found = [
            message
            for start in range(0, len(stream), size)
            for message in inbox.feed(stream[start : start + size])
        ]
        assert found == messages


def test_a_request_survives_the_wire() -> None:
    sent = request("hello")
    (message,) = Inbox().feed(pack(request_to_json(sent)))
    assert request_from_json(message) == sent
