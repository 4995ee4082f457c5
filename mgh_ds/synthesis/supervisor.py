"""Supervises an engine: opened when it is first needed, probed before any work, and opened again when it
dies."""

import time
from collections.abc import Callable, Container, Sequence

from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.engines.port import Completion, Engine, EngineDied, Request

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

    def ready(self, probes: Sequence[Request]) -> Engine:
        """The engine, started and shown to answer one of `probes`, prompts of one stage, once a life.

        Raises MghError if it does not start, refuses all probes, or dies again and again.
        """
        for _ in range(MAX_FAILED_STARTS):
            try:
                self._engine = self._engine or self._open()
                if self._probed != str(probes[0].schema):
                    self._send_probes(self._engine, probes)
                    self._probed = str(probes[0].schema)
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

    def _send_probes(self, engine: Engine, probes: Sequence[Request]) -> None:
        """Waits for one answer; other probes' may come later and are nobody's."""
        engine.submit(probes)
        waiting = {probe.unit_id for probe in probes}
        deadline = time.monotonic() + self._start_s
        while time.monotonic() < deadline:
            for completion in engine.poll(0.2):
                if completion.unit_id not in waiting:
                    continue
                if completion.finish_reason not in ("refused", "error"):
                    return
                waiting.remove(completion.unit_id)
                if not waiting:
                    raise MghError(f"the engine refuses its first {len(probes)} prompts: {completion.error}")
        raise EngineDied(f"no answer to a first prompt within {self._start_s:g} s")


def poll(
    engine: Engine, in_flight: Container[str], timeout_s: float, *, submitted_at: float, watchdog_s: float
) -> list[Completion]:
    """What the engine has finished of the units in flight: probes may be answered late. Raises EngineDied if
    it gave no sign of life for longer than `watchdog_s`, by the monotonic clock that `submitted_at` is of."""
    came = [one for one in engine.poll(timeout_s) if one.unit_id in in_flight]
    quiet = time.monotonic() - max(engine.last_progress, submitted_at)
    if not came and quiet > watchdog_s:
        raise EngineDied(f"no sign of life for {quiet:.0f} s")
    return came


def quarantined(unit_id: str, deaths: int, died: EngineDied) -> Completion:
    """The end of a unit that the engine died of too often."""
    return Completion(unit_id, "", "quarantined", 0, 0, attempts=deaths, error=str(died)[:500])
