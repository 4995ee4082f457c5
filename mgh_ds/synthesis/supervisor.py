"""Supervises an engine: opened when it is first needed, probed before any work, and opened again when it
dies."""

import time
from collections import deque
from collections.abc import Callable, Container, Sequence

from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.engines.port import Completion, Engine, EngineDied, Request

MAX_DEATHS_WITHOUT_ANSWER = 10


class EngineSupervisor:
    """Owns the engine. `open_engine` starts a new one.

    Its first probes are sent together: an endpoint that refuses one is known to work by the others. Once an
    engine has died, of a probe or of work, they are sent one by one, the one that was last answered first. So
    a prompt that kills engines costs one more start at most for each probe, and no unit is blamed for it.
    """

    def __init__(self, open_engine: Callable[[], Engine], start_s: float):
        self._open, self._start_s = open_engine, start_s
        self._engine: Engine | None = None
        self._schema = ""  # which the probes ask for: each stage has its own
        self._probes: deque[Request] = deque()
        self._probed = self._has_died = False
        self._probes_in_flight: set[str] = set()
        self._said = ""  # by the last probe that was refused
        self._deaths = 0
        self.has_answered = False  # whether any engine of this worker has ever finished a unit

    @property
    def may_die_of_probes(self) -> bool:
        """Whether the engine still has a probe to answer, and may die of it whatever else is in flight."""
        return bool(self._probes_in_flight)

    def ready(self, probes: Sequence[Request]) -> Engine:
        """The engine, started and shown to answer one of `probes`, prompts of one stage, once a life.

        Raises MghError if it does not start, refuses all probes, or dies of them together and of each alone.
        """
        if self._schema != (schema := str(probes[0].schema)):
            self._schema, self._probes, self._probed = schema, deque(probes), False
        starts = 1 + len(probes)
        for _ in range(starts):
            try:
                self._engine = self._engine or self._open()
                if not self._probed:
                    self._probe(self._engine)
                return self._engine
            except EngineDied as died:
                self._bury()
                reason = died
        raise MghError(f"the engine died {starts} times before its first answer: {reason}")

    def poll(
        self, in_flight: Container[str], timeout_s: float, *, submitted_at: float, watchdog_s: float
    ) -> list[Completion]:
        """What the engine, which is ready, has finished of the units in flight: probes may be answered late.
        Raises EngineDied if it gave no sign of life for longer than `watchdog_s`, by the monotonic clock that
        `submitted_at` is of."""
        assert self._engine is not None, "ready() comes first"
        came = [one for one in self._poll(self._engine, timeout_s) if one.unit_id in in_flight]
        quiet = time.monotonic() - max(self._engine.last_progress, submitted_at)
        if not came and quiet > watchdog_s:
            raise EngineDied(f"no sign of life for {quiet:.0f} s")
        return came

    def record_death(self, reason: EngineDied) -> None:
        """Ends what is left of the engine. Raises MghError if it died too often without an answer between."""
        self._bury()
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
        engine, self._engine, self._probed = self._engine, None, False
        self._probes_in_flight.clear()
        if engine is not None:
            engine.close()

    def _bury(self) -> None:
        self.close()
        self._has_died = True

    def _probe(self, engine: Engine) -> None:
        """Raises MghError if all probes are refused, EngineDied if the engine dies of one or answers none in
        time."""
        for _ in range(len(self._probes) if self._has_died else 1):
            sent = [self._probes[0]] if self._has_died else list(self._probes)
            self._probes.rotate(-len(sent))  # last, unless it is answered
            if answered := self._first_answered(engine, sent):
                self._probes.remove(answered)
                self._probes.appendleft(answered)
                self._probed = True
                return
        raise MghError(f"the engine refuses its first {len(self._probes)} prompts: {self._said}")

    def _first_answered(self, engine: Engine, sent: Sequence[Request]) -> Request | None:
        """Waits for one answer, and says of which; None if all are refused. Other probes' answers may come
        later and are nobody's."""
        engine.submit(sent)
        probes = {probe.unit_id: probe for probe in sent}
        self._probes_in_flight |= probes.keys()
        deadline = time.monotonic() + self._start_s
        while time.monotonic() < deadline:
            for completion in self._poll(engine, 0.2):
                if completion.unit_id not in probes:
                    continue
                probe = probes.pop(completion.unit_id)
                if completion.finish_reason not in ("refused", "error"):
                    return probe
                self._said = completion.error
                if not probes:
                    return None
        raise EngineDied(f"no answer to a first prompt within {self._start_s:g} s")

    def _poll(self, engine: Engine, timeout_s: float) -> list[Completion]:
        came = engine.poll(timeout_s)
        self._probes_in_flight.difference_update(one.unit_id for one in came)
        return came


def quarantined(unit_id: str, deaths: int, died: EngineDied) -> Completion:
    """The end of a unit that the engine died of too often."""
    return Completion(unit_id, "", "quarantined", 0, 0, attempts=deaths, error=str(died)[:500])
