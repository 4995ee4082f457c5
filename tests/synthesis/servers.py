"""Local servers that speak like real OpenAI-compatible ones, on good days and on bad ones.

`serving(answer)` starts one; `answer` takes the number of a call, from 0, and its body. `write(body)` is what
a well-behaved one answers: the scripted engine's words, a function of the call's seed and schema alone.
`FAULTS` are ways to fail a call, `DIALECTS` are ways to answer it that differ from the protocol's letter.
"""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

from mgh_ds.synthesis.engines.scripted import write_answer

Body = dict[str, Any]
Answer = tuple[int, str, dict[str, str]]


@dataclass
class Server:
    """A running server, and what it was asked. Every answer is a status, a text and headers; a header of its
    own `content-length` ends the connection after the text, status 0 ends it at once."""

    answer: Callable[[int, Body], Answer]
    bodies: list[Body] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    url: str = ""
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, body: Body, headers: dict[str, str]) -> Answer:
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.headers.append(headers)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            return self.answer(number, body)
        finally:
            with self._lock:
                self._now -= 1


@contextlib.contextmanager
def serving(answer: Callable[[int, Body], Answer]) -> Iterator[Server]:
    server = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, text, more = server.handle(body, headers)
            self.close_connection |= status == 0 or "content-length" in more
            if status == 0:
                return
            data = text.encode()
            self.send_response(status)
            length = {"content-length": str(len(data))}
            for name, value in {"content-type": "application/json", **length, **more}.items():
                self.send_header(name, value)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # whom it was for has gone
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    class HttpServer(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

        def handle_error(self, *address: Any) -> None:
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(*address)

    http = HttpServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def completion(text: str | None = '{"a":"b"}', reason: str | None = "stop", **changes: Any) -> Answer:
    """A chat completion. `changes` replace keys of the envelope, or of the message by `message`."""
    message = {"role": "assistant", "content": text} | changes.pop("message", {})
    choice = {"index": 0, "message": message, "finish_reason": reason}
    envelope = {"id": "x", "object": "chat.completion", "choices": [choice], "usage": USAGE} | changes
    return 200, json.dumps(envelope), {}


def schema_of(body: Body) -> dict[str, Any]:
    """The schema that a call asks for, in its own field or at the end of its prompt."""
    if schema := body.get("response_format", {}).get("json_schema"):
        return dict(schema["schema"])
    return dict(json.loads(body["messages"][-1]["content"].rsplit("\n", 1)[1]))


def write(body: Body) -> str:
    """A good answer's text."""
    return json.dumps(write_answer(Random(body["seed"]), schema_of(body)))


def well_behaved(_: int, body: Body) -> Answer:
    return completion(write(body))


def stream(text: str, *, whole: bool = True) -> Answer:
    """The answer as events, which nobody asked for."""
    pieces = [text[start : start + 40] for start in range(0, len(text), 40)]
    choices: list[dict[str, Any]] = [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]
    choices += [{"index": 0, "delta": {"content": piece}, "finish_reason": None} for piece in pieces]
    events = [{"choices": [choice]} for choice in choices]
    if whole:
        events += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
        events += [{"choices": [], "usage": USAGE}]
    lines = [": working", *(f"data: {json.dumps(event)}" for event in events), *["data: [DONE]"] * whole]
    return 200, "\n\n".join(lines) + "\n\n", {"content-type": "text/event-stream"}


# What comes instead of an answer, and the words by which the unit's error is known.
FAULTS: dict[str, tuple[Callable[[Body], Answer], str]] = {
    "error object": (
        lambda _: (200, '{"error": {"message": "upstream fell over"}}', {}),
        "upstream fell over",
    ),
    "no choices": (lambda _: completion(choices=[]), "no choices"),
    "null choices": (lambda _: completion(choices=None), "no choices"),
    "null message": (lambda _: completion(choices=[{"message": None}]), "no message"),
    "moderated": (
        lambda _: (403, '{"error": {"message": "flagged by moderation"}}', {}),
        "flagged by moderat",
    ),
    "too long": (lambda _: (400, '{"error": "context length exceeded"}', {}), "context length exceeded"),
    "web page": (lambda _: (200, "<html>Gateway</html>", {"content-type": "text/html"}), "Gateway"),
    "empty body": (lambda _: (200, "", {}), "not JSON"),
    "cut JSON": (lambda body: (200, well_behaved(0, body)[1][:-30], {}), "not all of it"),
    "cut body": (lambda body: (200, well_behaved(0, body)[1], {"content-length": "99999"}), "RemoteProtocol"),
    "cut stream": (lambda body: stream(write(body), whole=False), "stream that breaks off"),
    "no reply": (lambda _: (0, "", {}), "RemoteProtocolError"),
    "error 500": (lambda _: (500, "it makes me ill", {}), "it makes me ill"),
}

# What is an answer all the same.
DIALECTS: dict[str, Callable[[Body], Answer]] = {
    "parts": lambda body: completion(
        message={"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": write(body)}]}
    ),
    "stream": lambda body: stream(write(body)),
    "surrogates in the envelope": lambda body: completion(write(body), id="\ud83d", logprobs={"\udc00": 1}),
    "byte order mark": lambda body: (200, "\ufeff" + well_behaved(0, body)[1], {}),
    "eos": lambda body: completion(write(body), "eos"),
    "EOS_TOKEN": lambda body: completion(write(body), "EOS_TOKEN"),
    "end_turn": lambda body: completion(write(body), "end_turn"),
    "no end": lambda body: completion(write(body), None),
    "no usage": lambda body: completion(write(body), usage=None),
    "thinks aloud": lambda body: completion(f"<think>\nLet {{us}} see.\n</think>\n\n{write(body)}"),
    "fenced": lambda body: completion(f"Here it is:\n```json\n{write(body)}\n```\n"),
    "in its thoughts": lambda body: completion(None, message={"reasoning_content": write(body)}),
    "error beside choices": lambda body: completion(write(body), error=None),
}


def failing(how: Callable[[Body], Answer], at_fault: Callable[[Body], bool]) -> Callable[[int, Body], Answer]:
    """A server that fails some calls, whenever they are made."""
    return lambda _, body: how(body) if at_fault(body) else completion(write(body))


class Limited:
    """Answers one call in `every_s`, and refuses what comes sooner with 429."""

    def __init__(self, every_s: float, headers: dict[str, str]):
        self.every_s, self.headers = every_s, headers
        self.refused = 0
        self._next = 0.0
        self._lock = threading.Lock()

    def __call__(self, _: int, body: Body) -> Answer:
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                self.refused += 1
                return 429, '{"error": "slow down"}', self.headers
            self._next = now + self.every_s
        return completion(write(body))
