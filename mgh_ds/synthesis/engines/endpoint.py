"""Any OpenAI-compatible HTTP endpoint as an engine: vLLM's own server, another machine's, a provider's.

Whether a call that fails is to blame or the endpoint is, is found out by asking: what the endpoint answered
before is asked again. If that is answered, the one call ends with the server's words and the run goes on; if
not, the run ends.
"""

import asyncio
import json
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from mgh_ds.common import extras
from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.config import EngineConfig
from mgh_ds.synthesis.engines.endpoint_http import HttpClient, check_endpoint
from mgh_ds.synthesis.engines.envelope import NO_STATUS, Answer, NoAnswer
from mgh_ds.synthesis.engines.pace import Pace
from mgh_ds.synthesis.engines.port import Completion, Engine, FinishReason, Request

REFUSED = (400, 413, 422)  # there is something in the call that the endpoint does not take
# So many calls may fail before the first answer: none of them is to blame alone.
MAX_FIRST_REFUSALS = 8
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0  # between two tries
SHOWN_CHARS = 300


def check(config: EngineConfig) -> None:
    """Raises MghError for an address or a key that cannot work."""
    check_endpoint(config.endpoint)


def open_engine(config: EngineConfig, _log: Path) -> Engine:
    """The endpoint prints elsewhere, so its log stays empty."""
    extras.need("synthesis", "engine.kind: endpoint")
    return EndpointEngine(config)


class EndpointEngine:
    """An `Engine` over HTTP: one asyncio loop in a thread, at most `max_in_flight` calls at a time.

    Each call has limits of its own (`timeout_s`, `max_retries`, `patience_s`), so the worker's watchdog has
    nothing to add.
    """

    version = "OpenAI-compatible endpoint"

    def __init__(self, config: EngineConfig) -> None:
        check_endpoint(config.endpoint)
        self._config = config
        self._url = config.endpoint.base_url
        self._http = HttpClient(config)
        self._pace = Pace(config.max_in_flight)
        self._outcomes: queue.SimpleQueue[Completion | Exception] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._open = self._failed_first = 0  # calls that have not ended; those that failed before any answer
        self._good: Request | None = None  # one that was answered
        self._proved_s = 0.0  # when the newest call began that shows that the endpoint answers
        self._changed = asyncio.Condition()  # of the four above
        self._proof = asyncio.Lock()
        self.last_progress = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._calls: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> None:
        """Starts the calls."""
        self._loop.call_soon_threadsafe(self._start, list(requests))

    def poll(self, timeout_s: float) -> list[Completion]:
        """What has finished. Raises MghError for an endpoint that answers nothing, not even what it answered
        before, or that allows no call for longer than `patience_s`.

        A call that alone gets no answer ends with finish_reason error, one that alone is refused with
        refused.
        """
        self.last_progress = time.monotonic()
        finished: list[Completion] = []
        while self._failure is None:
            try:
                outcome = self._outcomes.get(timeout=0.0 if finished else max(timeout_s, 0.0))
            except queue.Empty:
                break
            if isinstance(outcome, Exception):
                self._failure = outcome
            else:
                finished.append(outcome)
        if self._failure is not None and not finished:
            raise self._failure
        return finished

    def close(self) -> None:
        """Drops all calls."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _start(self, requests: list[Request]) -> None:
        self._open += len(requests)
        for request in requests:
            call = self._loop.create_task(self._serve(request))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _stop(self) -> None:
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._http.close()

    async def _serve(self, request: Request) -> None:
        try:
            reply, tries = await self._ask(request)
            if isinstance(reply, Answer):
                self._outcomes.put(self._completion(request, reply, tries))
            elif await self._answers_others():
                self._outcomes.put(self._given_up(request, reply, tries))
            else:
                self._outcomes.put(MghError(self._explain(reply, tries)))
        except Exception as error:
            self._outcomes.put(error)
        async with self._changed:
            self._open -= 1
            self._changed.notify_all()

    async def _ask(self, request: Request) -> tuple[Answer | NoAnswer, int]:
        """An answer, or what came instead of it at the last try; and the number of tries. Raises MghError if
        the endpoint allows no call for too long."""
        tries = failed = 0
        while True:
            async with self._pace.turn() as began_s:
                tries += 1
                reply = await self._http.ask(request)
                if isinstance(reply, Answer):
                    self._pace.speed_up()
            if isinstance(reply, Answer):
                await self._remember(request, reply, began_s)
                return reply, tries
            if reply.kind == "slow":
                self._slow_down(reply, began_s)
                continue
            failed += 1
            if failed > self._retries(reply):
                return reply, tries
            await asyncio.sleep(min(FIRST_WAIT_S * 2 ** (failed - 1), LONGEST_WAIT_S))

    def _retries(self, reply: NoAnswer) -> int:
        most = self._config.endpoint.max_retries
        if reply.kind == "broken":
            return most
        if self._good is None:  # a wrong key, address or model is told at once
            return 0
        return most if reply.kind == "odd" else min(most, 1)

    async def _remember(self, request: Request, answer: Answer, began_s: float) -> None:
        if answer.finish_reason not in ("stop", "length") or began_s <= self._proved_s:
            return
        first = self._good is None
        self._good, self._proved_s = request, began_s
        if first:
            async with self._changed:
                self._changed.notify_all()

    def _slow_down(self, reply: NoAnswer, began_s: float) -> None:
        silent_s = self._pace.slow_down(began_s, reply.retry_after_s)
        if silent_s > self._config.endpoint.patience_s:
            raise MghError(
                f"{self._url} allows no call for {silent_s:,.0f} s (status {reply.status}: "
                f"{self._shown(reply.said)}): everything finished is kept, run again later or raise "
                "engine.endpoint.patience_s"
            )

    async def _answers_others(self) -> bool:
        """Whether the endpoint answers another call after this one failed. Before the first answer of all
        waits for what the other calls bring."""
        failed_s = time.monotonic()
        async with self._changed:
            self._failed_first += self._good is None
            self._changed.notify_all()
            await self._changed.wait_for(
                lambda: self._good or self._failed_first >= min(self._open, MAX_FIRST_REFUSALS)
            )
        if self._good is None:
            return False
        async with self._proof:  # one answer is proof for all that wait for it
            if self._proved_s <= failed_s:
                began_s = time.monotonic()
                reply, _ = await self._ask(self._good)
                if isinstance(reply, Answer):  # however it ended: a filter may strike by chance
                    self._proved_s = max(self._proved_s, began_s)
        return self._proved_s > failed_s

    def _completion(self, request: Request, answer: Answer, tries: int) -> Completion:
        return Completion(
            request.unit_id,
            answer.text,
            answer.finish_reason,
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            attempts=tries,
            error=self._scrubbed(answer.error),
        )

    def _given_up(self, request: Request, reply: NoAnswer, tries: int) -> Completion:
        """The end of a call that is alone in failing."""
        error = f"no answer after {tries} tries ({self._words(reply)})"
        reason: FinishReason = "refused" if reply.kind == "no" else "error"
        return Completion(request.unit_id, "", reason, 0, 0, attempts=tries, error=error)

    def _explain(self, reply: NoAnswer, tries: int) -> str:
        """Why the run ends: the endpoint answers nothing."""
        lines = [self._why(reply, tries)]
        if self._good is not None:
            lines.append("Nor does it answer what it answered before; everything finished is kept.")
        return "\n".join(lines)

    def _why(self, reply: NoAnswer, tries: int) -> str:
        if reply.kind == "broken":
            kept = "everything finished is kept: run again when it is back"
            return f"endpoint {self._url} gave no answer after {tries} tries ({self._words(reply)}); {kept}"
        if reply.kind == "odd":
            return (
                f"{self._url} did not answer with a chat completion ({reply.reason}), but with: "
                f"{self._shown(reply.said)}\nCheck engine.endpoint.base_url; it usually ends in /v1."
            )
        if reply.status in REFUSED and self._good is None:
            return (
                f"{self._url} refused the first {self._failed_first} calls, the last with "
                f"{self._words(reply)}\nIf it knows no JSON schemas, set engine.endpoint.response_format to "
                "json_object or to prompt; perhaps engine.model or the sampling does not suit it."
            )
        return f"{self._url} answered with {self._words(reply)}{self._advice(reply.status)}"

    def _advice(self, status: int) -> str:
        """A line of its own on what a status means; none if the words must do."""
        variable = self._config.endpoint.api_key_env
        held = (
            f"the key in {variable}"
            if variable
            else "calls without a key (engine.endpoint.api_key_env is null)"
        )
        advice = {
            401: f"It does not accept {held}.",
            403: f"It does not permit this to {held}.",
            404: f"Check engine.endpoint.base_url and that it serves engine.model {self._config.model}.",
        }
        if 300 <= status < 400:
            other = "It points elsewhere, which is not followed: set base_url to the final address."
        else:
            other = "" if self._good else "It takes no chat completions here."
        line = advice.get(status, other)
        return f"\n{line}" if line else ""

    def _words(self, reply: NoAnswer) -> str:
        """What came, in a line."""
        if reply.status == NO_STATUS:
            return reply.said
        what = f", {reply.reason}" if reply.reason else ""
        return f"status {reply.status}{what}: {self._shown(reply.said)}"

    def _shown(self, text: str) -> str:
        # Cut last: a key that is cut in two would not be found.
        return json.dumps(self._scrubbed(text)[:SHOWN_CHARS], ensure_ascii=False)

    def _scrubbed(self, text: str) -> str:
        """Without the key, and without halves of surrogate pairs, which cannot be printed."""
        text = text.encode("utf-8", "replace").decode()
        return text.replace(self._http.key, "(key)") if self._http.key else text
