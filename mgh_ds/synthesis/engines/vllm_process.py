"""vLLM as an engine, in a process group of its own: its crashes and hangs are not the worker's."""

import contextlib
import importlib.util
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mgh_ds.common import extras
from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.config import EngineConfig
from mgh_ds.synthesis.engines.model_folder import check_chat_template, dequantised_model, local_folder
from mgh_ds.synthesis.engines.port import Completion, Engine, EngineDied, Request
from mgh_ds.synthesis.engines.wire import Inbox, Message, pack, request_to_json

CHILD = "mgh_ds.synthesis.engines.vllm_child"
RECEIVE_BYTES = 1 << 20
EXIT_STATUS_WAIT_S = 5.0  # for the exit status of a child whose socket is closed
GROUP_END_S = 10.0  # for the kernel to take back a killed group, and with it the memory of its GPU
LOG_TAIL_BYTES = 200_000
ERROR_LINE = re.compile(r"^\((?:EngineCore|Worker).*?\b((?:\w+\.)*\w*(?:Error|Exception): .+)$", re.MULTILINE)


def check(config: EngineConfig) -> None:
    """Raises MghError if `config.model` is a local folder that cannot chat."""
    check_chat_template(config.model)


def open_engine(config: EngineConfig, log: Path) -> Engine:
    """Starts vLLM; what it prints goes to the file `log`."""
    return VllmEngine(config, log)


class VllmEngine:
    """An `Engine`: starts at once, and makes the first submit or poll wait until it is ready.

    What vLLM prints goes to `log`. Raises MghError if vLLM is not installed or the model cannot chat.
    """

    version = "vllm"

    def __init__(self, config: EngineConfig, log: Path) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise MghError(
                f"vLLM is not installed: {extras.install_line('vllm')}, or make vllm in a checkout; "
                "engine.kind: endpoint needs none here"
            )
        config = config.replace(model=dequantised_model(config.model))
        check_chat_template(config.model)
        self._config = config
        self._log = log
        self._cache = tempfile.mkdtemp(prefix="mgh-ds-vllm-")
        self._inbox = Inbox()
        self._outgoing = bytearray(pack({"start": config.model_dump(), "cache": self._cache}))
        self._finished: list[Completion] = []
        self._in_flight = 0
        self._failure: Exception | None = None
        self._ready = False
        self._closed = False
        self.last_progress = time.monotonic()
        self._deadline = self.last_progress + config.start_s
        self._process, self._socket = _start(config, self._cache, log)

    def submit(self, requests: Sequence[Request]) -> None:
        """Sends requests on their way. Raises EngineDied or MghError."""
        self._wait_until_ready()
        if not self._in_flight:
            self.last_progress = time.monotonic()
        self._in_flight += len(requests)
        for request in requests:
            self._outgoing += pack(request_to_json(request))
        self._exchange(0.0)
        self._raise_failure()

    def poll(self, timeout_s: float) -> list[Completion]:
        """What has finished. Raises EngineDied, or MghError for what no retry can mend."""
        self._wait_until_ready()
        until = time.monotonic() + timeout_s
        self._exchange(0.0)
        while not self._finished and not self._failure and (left := until - time.monotonic()) > 0:
            self._exchange(left)
        self._raise_failure()
        finished, self._finished = self._finished, []
        self._in_flight -= len(finished)
        return finished

    def close(self) -> None:
        """Kills vLLM and all its processes, and waits until they are gone."""
        if self._closed:
            return
        self._closed = True
        # Before it is reaped: until then nobody else can have its number.
        _kill_group(self._process.pid)
        self._process.wait()
        self._socket.close()
        _wait_for_group(self._process.pid)
        shutil.rmtree(self._cache, ignore_errors=True)

    def _wait_until_ready(self) -> None:
        while not self._ready:
            left = self._deadline - time.monotonic()
            if left <= 0:
                self._failure = MghError(self._no_start(f"it is not ready after {self._config.start_s:g} s"))
            self._raise_failure()
            self._exchange(left)

    def _raise_failure(self) -> None:
        # What finished before the failure is handed over first.
        if self._failure is not None and not self._finished:
            raise self._failure

    def _exchange(self, timeout_s: float) -> None:
        """Sends and receives what can be without waiting; waits up to `timeout_s` if that is nothing."""
        if self._failure is not None:
            return
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        events = dict(poller.poll(timeout_s * 1000)).get(self._socket.fileno(), 0)
        try:
            if events & select.POLLOUT:
                del self._outgoing[: self._socket.send(self._outgoing)]
            if events & ~select.POLLOUT:
                self._receive(self._socket.recv(RECEIVE_BYTES))
        except (BrokenPipeError, ConnectionResetError):
            self._receive(b"")

    def _receive(self, data: bytes) -> None:
        self.last_progress = time.monotonic()
        for message in self._inbox.feed(data):
            self._take(message)
        if not data and self._failure is None:
            status = f"its process {_exit_status(self._process.pid)}"
            died = f"vLLM died, {status}: see {self._log}"
            self._failure = EngineDied(died if self._ready else self._no_start(status))

    def _take(self, message: Message) -> None:
        if "done" in message:
            self._finished += [Completion(**completion) for completion in message["done"]]
        elif "ready" in message:
            self._ready = True
            self.version = message["ready"]
        elif "died" in message:
            self._failure = EngineDied(f"vLLM died, {message['died']}: see {self._log}")
        elif "fatal" in message and self._ready:
            self._failure = MghError(f"{message['fatal']} (vLLM's log: {self._log})")
        elif "fatal" in message:
            self._failure = MghError(self._no_start(_root_cause(self._log) or message["fatal"]))

    def _no_start(self, cause: str) -> str:
        return (
            f"vLLM could not start with {self._config.model}: {cause}\nIts log is {self._log}. If memory is "
            "short, lower engine.vllm.max_model_len, max_num_seqs, gpu_memory_utilization or kv_cache_gib."
        )


def _start(config: EngineConfig, cache: str, log: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    log.parent.mkdir(parents=True, exist_ok=True)
    with theirs, log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", CHILD, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env=_environment(config.model, cache),
        )
    ours.setblocking(False)
    return process, ours


def _environment(model: str, cache: str) -> dict[str, str]:
    ours = {
        # Compile caches that several processes share become corrupt. And a killed vLLM leaves files behind.
        "VLLM_CACHE_ROOT": cache,
        "TMPDIR": cache,
        # With fork vLLM's own processes would hold our socket open after the child's death.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if local_folder(model) is not None:
        ours["HF_HUB_OFFLINE"] = "1"
    return {**os.environ, **ours}


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: nothing but zombies is left
        os.killpg(group, signal.SIGKILL)


def _wait_for_group(group: int) -> None:
    # The memory of a GPU is free again only when the last process of the group has gone.
    until = time.monotonic() + GROUP_END_S
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(group, 0)
            time.sleep(0.02)


def _exit_status(pid: int) -> str:
    """How a child ended, in words. It is not reaped, so that its number stays its own until `close`."""
    until = time.monotonic() + EXIT_STATUS_WAIT_S
    while time.monotonic() < until:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is not None:
            how = "ended with code" if ended.si_code == os.CLD_EXITED else "was killed by signal"
            return f"{how} {ended.si_status}"
        time.sleep(0.02)
    return "closed its socket"


def _root_cause(log: Path) -> str:
    """The last error that vLLM's own processes wrote; what the child is told only says that there was one."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    errors = ERROR_LINE.findall(text)
    return errors[-1] if errors else ""
