"""The worker: takes units from the shards it holds, keeps the engine full, and hands back what it answers.

Several shards are open at once, so that the last answers of one do not leave the engine idle. A unit that the
engine dies of is tried again in ever smaller company: whoever dies alone is guilty.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from mgh_ds.common.files import HeldError
from mgh_ds.synthesis.counts import progress_of
from mgh_ds.synthesis.engines import check_engine, open_engine
from mgh_ds.synthesis.engines.port import Completion, EngineDied
from mgh_ds.synthesis.keeper import EngineKeeper
from mgh_ds.synthesis.live import Live
from mgh_ds.synthesis.plan import SynthesisPlan
from mgh_ds.synthesis.prepare import Prepared
from mgh_ds.synthesis.shard import Shard
from mgh_ds.synthesis.tasks import freeze_tasks, open_tasks, tasks_path
from mgh_ds.synthesis.units import Stage, Task

OPEN_SHARDS = 4
POLL_S = 0.2
WAIT_S = 0.5
# How many units may be in flight with one that the engine died of once, and twice. After three times it is
# given up.
COMPANY = {1: 32, 2: 1}
GIVEN_UP_AFTER = 3


@dataclass(frozen=True, slots=True)
class InFlight:
    """A unit that the engine has, and the shard that waits for it."""

    shard: Shard
    prepared: Prepared


def run(plan: SynthesisPlan, shards: Sequence[int], live: Live) -> list[int]:
    """Works until the given shards are done. Returns those that another worker holds.

    Stage 1 must be complete in all shards before stage 2 can begin anywhere: a worker that has done its own
    helps with the others', and waits for what is held.
    Raises MghError for what no retry can mend; everything finished until then is kept.
    """
    check_engine(plan.config.engine)
    log = plan.folder / "logs" / f"engine-{live.name}.log"
    keeper = EngineKeeper(partial(open_engine, plan.config.engine, log), plan.config.engine.start_s)
    try:
        if not tasks_path(plan).exists():
            left, told = list(dict.fromkeys([*shards, *range(plan.config.shards)])), 0
            while left := StageRun(plan, "tasks", plan.plan_hash, {}, keeper, live).work(left):
                if tasks_path(plan).exists():
                    break
                if len(left) != told:
                    live.say(f"waiting for stage 1 of {len(left)} shards that other workers hold")
                    told = len(left)
                live.wait(WAIT_S)
            else:
                freeze_tasks(plan)
        scope, tasks = open_tasks(plan)
        return StageRun(plan, "samples", scope, tasks, keeper, live).work(shards)
    finally:
        keeper.close()


class StageRun:
    """One stage, worked through by one worker."""

    def __init__(
        self,
        plan: SynthesisPlan,
        stage: Stage,
        scope: str,
        tasks: dict[str, Task],
        keeper: EngineKeeper,
        live: Live,
    ):
        self.plan, self.stage, self.scope, self.tasks = plan, stage, scope, tasks
        self.keeper, self.live = keeper, live
        self._waiting: deque[int] = deque()
        self._held: list[int] = []
        self._open: list[Shard] = []
        self._in_flight: dict[str, InFlight] = {}
        self._suspects: list[InFlight] = []
        self._warned = False
        self._submitted_at = 0.0
        self._finished = 0  # progress of the shards that are done

    def work(self, shards: Iterable[int]) -> list[int]:
        """Works until these shards are done; returns those held by others."""
        self._waiting, self._held = deque(shards), []
        self.live.begin(self.stage, list(self._waiting))
        try:
            while self._step():
                pass
            if self._open:
                raise RuntimeError(f"shard {self._open[0].number} is not done, but nothing of it is due")
        finally:
            for shard in self._open:
                shard.close()
        return self._held

    def _step(self) -> bool:
        """Hands out what there is room for and settles what came back; False when nothing is left to do."""
        batch = self._next_batch()
        if not batch and not self._in_flight:
            return False
        try:
            some = batch[0] if batch else next(iter(self._in_flight.values()))
            engine = self.keeper.ready(some.shard.preparer.probe())
            if batch:
                engine.submit([one.prepared.request for one in batch])
                self._in_flight.update({one.prepared.unit.unit_id: one for one in batch})
                self._submitted_at = time.monotonic()
            completions = engine.poll(POLL_S)
            quiet = time.monotonic() - max(engine.last_progress, self._submitted_at)
            if not completions and quiet > self.plan.config.engine.watchdog_s:
                raise EngineDied(f"no sign of life for {quiet:.0f} s")
        except EngineDied as died:
            self._in_flight.update({one.prepared.unit.unit_id: one for one in batch})
            self._bury(died)
        else:
            if completions:
                self.keeper.answered()
            self._settle(completions, engine.version)
        self.live.show(self._reached())
        return True

    def _reached(self) -> int:
        """How far this run's shards are, with what they had before."""
        return self._finished + sum(progress_of(self.plan, self.stage, shard.total()) for shard in self._open)

    def _next_batch(self) -> list[InFlight]:
        """What to submit now: suspects, once nothing else is in flight; else whatever there is room for,
        unless suspects are in flight, whose company is chosen."""
        among_suspects = any(self._deaths(one) for one in self._in_flight.values())
        batch = [] if self._suspects or among_suspects else self._fill()
        for shard in self._open:
            self._suspects += [InFlight(shard, prepared) for prepared in shard.suspects()]
        if self._suspects and not batch and not self._in_flight:
            return self._next_suspects()
        return batch

    def _fill(self) -> list[InFlight]:
        batch: list[InFlight] = []
        room = self.plan.config.engine.max_in_flight - len(self._in_flight)
        while room > len(batch):
            for shard in list(self._open):
                taken = shard.take(room - len(batch))
                batch += [InFlight(shard, prepared) for prepared in taken]
                self._close_if_done(shard)
            if len(batch) >= room or not self._open_another():
                break
        return batch

    def _next_suspects(self) -> list[InFlight]:
        """Those with the fewest deaths first, in the company that is still allowed."""
        deaths = min(self._deaths(suspect) for suspect in self._suspects)
        batch = [suspect for suspect in self._suspects if self._deaths(suspect) == deaths]
        batch = batch[: COMPANY[min(deaths, max(COMPANY))]]
        chosen = {suspect.prepared.unit.unit_id for suspect in batch}
        self._suspects = [one for one in self._suspects if one.prepared.unit.unit_id not in chosen]
        return batch

    def _deaths_too_many(self) -> int:
        """The deaths after which a unit is given up. An engine that has answered nothing yet is the likelier
        culprit, but not for ever."""
        works = self.keeper.has_answered or any(shard.answered for shard in self._open)
        return GIVEN_UP_AFTER if works else 2 * GIVEN_UP_AFTER

    def _deaths(self, one: InFlight) -> int:
        return one.shard.crashes[one.prepared.unit.unit_id]

    def _open_another(self) -> bool:
        while self._waiting and len(self._open) < OPEN_SHARDS:
            number = self._waiting.popleft()
            try:
                shard = Shard(self.plan, self.stage, self.scope, self.tasks, number)
            except HeldError:
                self._held.append(number)
                continue
            if not shard.locked and not self._warned:
                self._warned = True
                self.live.say(
                    f"{shard.folder} cannot be locked: safe, but give each shard to one worker only"
                )
            self._open.append(shard)
            return True
        return False

    def _settle(self, completions: Sequence[Completion], engine: str) -> None:
        by_shard: dict[int, list[Completion]] = {}
        for completion in completions:
            if completion.unit_id in self._in_flight:
                shard = self._in_flight.pop(completion.unit_id).shard
                by_shard.setdefault(shard.number, []).append(completion)
        for shard in list(self._open):
            if some := by_shard.get(shard.number):
                self.live.count(shard.finish(some, engine))
                self._close_if_done(shard)
            else:
                shard.sync_if_due()

    def _close_if_done(self, shard: Shard) -> None:
        if shard.done:
            self._finished += progress_of(self.plan, self.stage, shard.counts)
            if shard.short:
                self.live.say(
                    f"shard {shard.number} ends short of its goal: its rounds of top-up are used up"
                )
            shard.close()
            self._open.remove(shard)

    def _bury(self, died: EngineDied) -> None:
        """Everything in flight becomes suspect; what the engine died of three times is given up."""
        lost, self._in_flight = list(self._in_flight.values()), {}
        for shard in list(self._open):
            mine = [one for one in lost if one.shard is shard]
            shard.lost([one.prepared.unit.unit_id for one in mine])
            too_many = self._deaths_too_many()
            given_up = [one for one in mine if self._deaths(one) >= too_many]
            self._suspects += [one for one in mine if self._deaths(one) < too_many]
            if given_up:
                ends = [_quarantined(one, self._deaths(one), died) for one in given_up]
                self.live.count(shard.finish(ends, "none"))
                self._close_if_done(shard)
        self.live.say(f"the engine died with {len(lost)} units in flight ({died}); starting it again")
        self.keeper.died(died)


def _quarantined(one: InFlight, deaths: int, died: EngineDied) -> Completion:
    return Completion(
        unit_id=one.prepared.unit.unit_id,
        text="",
        finish_reason="quarantined",
        tokens_in=0,
        tokens_out=0,
        attempts=deaths,
        error=str(died)[:500],
    )
