"""A list of questions, each answered by an engine once, whatever dies meanwhile.

Nothing of a plan is needed: no shards, no rounds. What the engine dies of is tried again among ever fewer
others, and given up in the end, as the worker does it.
"""

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from mgh_ds.synthesis.config import EngineConfig
from mgh_ds.synthesis.engines.port import Completion, EngineDied, Request
from mgh_ds.synthesis.supervisor import EngineSupervisor, poll, quarantined
from mgh_ds.synthesis.worker import MAX_CRASHES, POLL_S, SUSPECTS_IN_FLIGHT


def ask(
    requests: Iterable[Request],
    probes: Sequence[Request],
    supervisor: EngineSupervisor,
    config: EngineConfig,
) -> Iterator[list[Completion]]:
    """Yields what comes back, in any order, once the engine answered a probe; at most `config.max_in_flight`
    calls are under way.

    A request that the engine died of three times ends as `quarantined`. Raises MghError for what no retry can
    mend: see `EngineSupervisor` and the engine's `poll`.
    """
    waiting = iter(requests)
    in_flight: dict[str, Request] = {}
    suspects: dict[str, Request] = {}
    deaths: Counter[str] = Counter()
    submitted = 0.0
    while True:
        if suspects or any(deaths[unit_id] for unit_id in in_flight):
            batch = [] if in_flight else _fewest_deaths(suspects, deaths)
        else:
            batch = list(itertools.islice(waiting, config.max_in_flight - len(in_flight)))
        if not batch and not in_flight:
            return
        in_flight |= {request.unit_id: request for request in batch}
        try:
            engine = supervisor.ready(probes)
            if batch:
                engine.submit(batch)
                submitted = time.monotonic()
            came = poll(engine, in_flight, POLL_S, submitted_at=submitted, watchdog_s=config.watchdog_s)
        except EngineDied as died:
            deaths.update(in_flight.keys())
            suspects |= in_flight
            supervisor.record_death(died)
            came = [quarantined(one, deaths[one], died) for one in in_flight if deaths[one] >= MAX_CRASHES]
            in_flight = {}
        else:
            if came:
                supervisor.record_answer()
        for one in came:
            in_flight.pop(one.unit_id, None)
            suspects.pop(one.unit_id, None)
        if came:
            yield came


def _fewest_deaths(suspects: dict[str, Request], deaths: Counter[str]) -> list[Request]:
    """Takes the suspects that the engine died of least often, as many as may be tried together."""
    least = min(deaths[unit_id] for unit_id in suspects)
    chosen = [unit_id for unit_id in suspects if deaths[unit_id] == least][: SUSPECTS_IN_FLIGHT[least]]
    return [suspects.pop(unit_id) for unit_id in chosen]
