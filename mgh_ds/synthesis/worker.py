"""The worker: takes units from the shards it holds, keeps the engine full, and hands back what it answers.

Several shards are open at once, so that the last answers of one do not leave the engine idle. A unit that the
engine dies of is tried again among ever fewer others, in the end alone.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from mgh_ds.common.files import HeldError
from mgh_ds.synthesis.counts import progress_of
from mgh_ds.synthesis.engines.opening import check_engine, open_engine
from mgh_ds.synthesis.engines.port import Completion, EngineDied
from mgh_ds.synthesis.plan import SynthesisPlan
from mgh_ds.synthesis.prepare import Prepared
from mgh_ds.synthesis.progress import WorkerProgress
from mgh_ds.synthesis.shard_run import ShardRun
from mgh_ds.synthesis.supervisor import EngineSupervisor, poll, quarantined
from mgh_ds.synthesis.tasks import freeze_tasks, open_tasks, tasks_path
from mgh_ds.synthesis.units import SynthesisStage, Task

OPEN_SHARDS = 4
POLL_S = 0.2
WAIT_S = 0.5
# How many units may be in flight together if the engine died of them once, and twice. After three times a
# unit is given up.
SUSPECTS_IN_FLIGHT = {1: 32, 2: 1}
MAX_CRASHES = 3


@dataclass(frozen=True, slots=True)
class InFlight:
    """A unit that the engine has, and the shard that waits for it."""

    shard: ShardRun
    prepared: Prepared


def run(plan: SynthesisPlan, shards: Sequence[int], progress: WorkerProgress) -> list[int]:
    """Works until the given shards are done. Returns those that another worker holds.

    Stage 1 must be complete in all shards before stage 2 can begin anywhere: a worker that has done its own
    helps with the others', and waits for what is held.
    Raises MghError for what no retry can mend; everything finished until then is kept.
    """
    check_engine(plan.config.engine)
    log = plan.folder / "logs" / f"engine-{progress.name}.log"
    supervisor = EngineSupervisor(partial(open_engine, plan.config.engine, log), plan.config.engine.start_s)
    try:
        if not tasks_path(plan).exists():
            left, logged = list(dict.fromkeys([*shards, *range(plan.config.shards)])), 0
            while left := StageRun(plan, "tasks", plan.plan_hash, {}, supervisor, progress).work(left):
                if tasks_path(plan).exists():
                    break
                if len(left) != logged:
                    progress.log(f"waiting for stage 1 of {len(left)} shards that other workers hold")
                    logged = len(left)
                progress.wait(WAIT_S)
            else:
                freeze_tasks(plan)
        scope, tasks = open_tasks(plan)
        return StageRun(plan, "samples", scope, tasks, supervisor, progress).work(shards)
    finally:
        supervisor.close()


class StageRun:
    """One stage, worked through by one worker."""

    def __init__(
        self,
        plan: SynthesisPlan,
        stage: SynthesisStage,
        scope: str,
        tasks: dict[str, Task],
        supervisor: EngineSupervisor,
        progress: WorkerProgress,
    ):
        self.plan, self.stage, self.scope, self.tasks = plan, stage, scope, tasks
        self.supervisor, self.progress = supervisor, progress
        self._waiting: deque[int] = deque()
        self._held: list[int] = []
        self._open: list[ShardRun] = []
        self._in_flight: dict[str, InFlight] = {}
        self._suspects: list[InFlight] = []
        self._warned = False
        self._submitted_at = 0.0
        self._finished = 0  # progress of the shards that are done

    def work(self, shards: Iterable[int]) -> list[int]:
        """Works until these shards are done; returns those held by others."""
        self._waiting, self._held = deque(shards), []
        self.progress.begin(self.stage, list(self._waiting))
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
            engine = self.supervisor.ready(some.shard.preparer.probes)
            if batch:
                engine.submit([one.prepared.request for one in batch])
                self._in_flight.update({one.prepared.unit.unit_id: one for one in batch})
                self._submitted_at = time.monotonic()
            completions = poll(
                engine,
                self._in_flight,
                POLL_S,
                submitted_at=self._submitted_at,
                watchdog_s=self.plan.config.engine.watchdog_s,
            )
        except EngineDied as died:
            self._in_flight.update({one.prepared.unit.unit_id: one for one in batch})
            self._handle_death(died)
        else:
            if completions:
                self.supervisor.record_answer()
            self._settle(completions, engine.version)
        self.progress.show(self._reached())
        return True

    def _reached(self) -> int:
        """How far this run's shards are, with what they had before."""
        return self._finished + sum(progress_of(self.plan, self.stage, shard.total()) for shard in self._open)

    def _next_batch(self) -> list[InFlight]:
        """What to submit now: suspects, once nothing else is in flight; else whatever there is room for,
        unless suspects are in flight, whose number is limited."""
        among_suspects = any(self._crashes(one) for one in self._in_flight.values())
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
        """Those with the fewest crashes first, as many together as are still allowed."""
        crashes = min(self._crashes(suspect) for suspect in self._suspects)
        batch = [suspect for suspect in self._suspects if self._crashes(suspect) == crashes]
        batch = batch[: SUSPECTS_IN_FLIGHT[min(crashes, max(SUSPECTS_IN_FLIGHT))]]
        chosen = {suspect.prepared.unit.unit_id for suspect in batch}
        self._suspects = [one for one in self._suspects if one.prepared.unit.unit_id not in chosen]
        return batch

    def _max_crashes(self) -> int:
        """The crashes after which a unit is given up. An engine that has answered nothing yet is the likelier
        culprit, but not for ever."""
        works = self.supervisor.has_answered or any(shard.answered for shard in self._open)
        return MAX_CRASHES if works else 2 * MAX_CRASHES

    def _crashes(self, one: InFlight) -> int:
        return one.shard.crashes[one.prepared.unit.unit_id]

    def _open_another(self) -> bool:
        while self._waiting and len(self._open) < OPEN_SHARDS:
            number = self._waiting.popleft()
            try:
                shard = ShardRun(self.plan, self.stage, self.scope, self.tasks, number)
            except HeldError:
                self._held.append(number)
                continue
            if not shard.locked and not self._warned:
                self._warned = True
                self.progress.log(
                    f"{shard.folder} cannot be locked: safe, but give each shard to one worker only"
                )
            self._open.append(shard)
            return True
        return False

    def _settle(self, completions: Sequence[Completion], engine: str) -> None:
        by_shard: dict[int, list[Completion]] = {}
        for completion in completions:
            shard = self._in_flight.pop(completion.unit_id).shard
            by_shard.setdefault(shard.number, []).append(completion)
        for shard in list(self._open):
            if some := by_shard.get(shard.number):
                self.progress.count(shard.finish(some, engine))
                self._close_if_done(shard)
            else:
                shard.sync_if_due()

    def _close_if_done(self, shard: ShardRun) -> None:
        if shard.done:
            self._finished += progress_of(self.plan, self.stage, shard.counts)
            if shard.short:
                self.progress.log(
                    f"shard {shard.number} ends short of its goal: its rounds of top-up are used up"
                )
            shard.close()
            self._open.remove(shard)

    def _handle_death(self, died: EngineDied) -> None:
        """Everything in flight becomes suspect; what the engine died of three times is given up."""
        lost, self._in_flight = list(self._in_flight.values()), {}
        for shard in list(self._open):
            mine = [one for one in lost if one.shard is shard]
            shard.record_crash([one.prepared.unit.unit_id for one in mine])
            too_many = self._max_crashes()
            given_up = [one for one in mine if self._crashes(one) >= too_many]
            self._suspects += [one for one in mine if self._crashes(one) < too_many]
            if given_up:
                completions = [
                    quarantined(one.prepared.unit.unit_id, self._crashes(one), died) for one in given_up
                ]
                self.progress.count(shard.finish(completions, "none"))
                self._close_if_done(shard)
        self.progress.log(f"the engine died with {len(lost)} units in flight ({died}); starting it again")
        self.supervisor.record_death(died)
