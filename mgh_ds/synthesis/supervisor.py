"""Supervises an engine: opened when it is first needed, probed before any work, and opened again when it
dies."""

import time
from collections.abc import Callable

from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.engines.port import Engine, EngineDied, Request

MAX_FAILED_STARTS = 3
MAX_DEATHS_WITHOUT_ANSWER = 10


class EngineSupervisor:
    """Owns the engine. `open_engine` starts a new one."""

    def __init__(self, open_engine: Callable[[], Engine], start_s: float):
        self._open, self._start_s = open_engine, start_s
        self._engine: Engine | None = None
        self._probed = ""
        self._deaths = 0
        self.has_answered = False  # whether any engine of this worker has ever finished a unit

    def ready(self, probe: Request) -> Engine:
        """The engine, started and shown to answer `probe` (a stage's schema) once a life.

        Raises MghError if it does not start, refuses the probe, or dies again and again.
        """
        for _ in range(MAX_FAILED_STARTS):
            try:
                self._engine = self._engine or self._open()
                if self._probed != str(probe.schema):
                    self._send_probe(self._engine, probe)
                    self._probed = str(probe.schema)
                return self._engine
            except EngineDied as died:
                self.close()
                reason = died
        raise MghError(f"the engine died {MAX_FAILED_STARTS} times before its first answer: {reason}")

    def record_death(self, reason: EngineDied) -> None:
        """Ends what is left of the engine. Raises MghError if it died too often without an answer between."""
        self.close()
        self._deaths += 1
        if self._deaths >= MAX_DEATHS_WITHOUT_ANSWER:
            raise MghError(
                f"the engine died {self._deaths} times without finishing anything between: {reason}. What "
                "was finished is kept; mend the engine and run again"
            )

    def record_answer(self) -> None:
        """Notes that the engine finishes work."""
        self._deaths = 0
        self.has_answered = True

    def close(self) -> None:
        engine, self._engine, self._probed = self._engine, None, ""
        if engine is not None:
            engine.close()

    def _send_probe(self, engine: Engine, probe: Request) -> None:
        engine.submit([probe])
        deadline = time.monotonic() + self._start_s
        while time.monotonic() < deadline:
            for completion in engine.poll(0.2):
                if completion.finish_reason in ("refused", "error"):
                    raise MghError(f"the engine refuses a small question: {completion.error}")
                return
        raise EngineDied(f"no answer to a small question within {self._start_s:g} s")
