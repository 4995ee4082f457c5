"""One stage of one shard, while one worker holds it: which units are due, what came back, and what is on
disk.

    shard-00003/
      lock                     held by the worker (flock)
      round-00.json            how many units the round has; written once, from the parts of the rounds before
      part-00000.parquet       a finished chunk
      chunk-00001.*.journal    the finished units of chunks that are not finished
      done.json                the shard's counts, once its goal is met

A restart reads the parts and journals and asks for what is missing. The stream of units is a function of the
plan, so nothing else has to be remembered.
"""

import contextlib
import itertools
import math
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.counts import Counts, goal_of, progress_of
from mgh_ds.synthesis.engines.port import Completion
from mgh_ds.synthesis.journal import Journal, read_journal
from mgh_ds.synthesis.parts import PartSummary, part_path, read_part, read_summary, write_new_json, write_part
from mgh_ds.synthesis.plan import SynthesisPlan
from mgh_ds.synthesis.prepare import Prepared, Preparer, reason_of, row_of
from mgh_ds.synthesis.unit_row import UnitRow
from mgh_ds.synthesis.units import SynthesisStage, Task, Unit, units_of_shard

SYNC_S = 2.0
STALE_S = 3600.0
COMPLETION = [field.name for field in fields(Completion)]
# So many units without anything gained end the run; a shard's first round does if it is smaller, but for the
# least.
GIVE_UP_AFTER, LEAST_BEFORE_GIVING_UP = 256, 16


@dataclass
class Chunk:
    """A chunk that is being worked on. `pending` are units not yet handed out, in stream order."""

    number: int
    round: int
    units: dict[str, Unit]
    pending: dict[str, Unit]
    rows: dict[str, UnitRow] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    journal: Journal | None = None


class ShardRun:
    """One stage of one shard, held by this worker until `close`.

    Raises files.HeldError if another worker has it. `done` says that the goal is met, or cannot be (then
    `short`).
    """

    def __init__(
        self, plan: SynthesisPlan, stage: SynthesisStage, scope: str, tasks: dict[str, Task], number: int
    ):
        self.plan, self.stage, self.number = plan, stage, number
        self.folder = plan.shard_folder(stage, number)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = files.hold(self.folder / "lock")
        self.scope = scope
        self.preparer = Preparer(plan, stage, tasks)
        self.goal = goal_of(plan, stage, number)
        self.counts = Counts()  # of the parts
        self._barren_rounds = self._barren_units = 0  # at the beginning, before anything counted
        self._came = 0  # units finished since this shard was opened
        self._accepted = self._uncounted = 0  # accepted since then; those that nobody counted the tokens of
        self._said = ""  # an engine's last word on why it gave no answer
        self.crashes: Counter[str] = Counter()
        self.done = self.short = False
        self._stream = units_of_shard(scope, stage, list(tasks) or [""], number, plan.config.shards)
        self._chunks: dict[int, Chunk] = {}
        self._chunk_of: dict[str, Chunk] = {}
        self._prepared: dict[str, Prepared] = {}
        self._next_chunk = 0
        self._rounds: list[int] = []
        self._suspects: list[Unit] = []
        self._left_in_round = 0
        self._synced = time.monotonic()
        self._remove_stale_files()
        self._next_round()

    @property
    def locked(self) -> bool:
        """Whether the file system could lock the shard. If not, that is no obstacle: a part is linked into
        place once, whoever made it."""
        return self._lock is not None

    def take(self, room: int) -> list[Prepared]:
        """Up to `room` units that are due and were not handed out yet, in the stream's order; none if the
        round's last units must come back first."""
        taken: list[Prepared] = []
        while len(taken) < room and not self.done:
            chunk = next((chunk for chunk in self._chunks.values() if chunk.pending), None)
            if chunk is not None:
                for unit in list(itertools.islice(chunk.pending.values(), room - len(taken))):
                    del chunk.pending[unit.unit_id]
                    taken.append(self._prepare(unit))
            elif self._left_in_round:
                self._open_chunk()
            elif not self._chunks:
                self._next_round()
            else:
                break
        return taken

    def finish(self, completions: list[Completion], engine: str) -> Counts:
        """Keeps what came back: in the journal at once, in a part when its chunk is complete. Returns the
        counts of these completions."""
        came = Counts()
        completions = [self._as_kept(completion) for completion in completions]
        by_chunk: dict[int, list[Completion]] = {}
        for completion in completions:
            by_chunk.setdefault(self._chunk_of[completion.unit_id].number, []).append(completion)
        for number, some in by_chunk.items():
            chunk = self._chunks[number]
            self._journal(chunk).append(
                [{"engine": engine} | {name: getattr(one, name) for name in COMPLETION} for one in some]
            )
            for completion in some:
                reason = self._settle(chunk, completion, engine)
                came.add(completion, reason)
                self._uncounted += not reason and self._is_uncounted(completion)
                self._said = completion.error or self._said
            self._close_if_complete(chunk)
        self._came += came.units
        self._accepted += came.accepted
        self._refuse_uncounted()
        self._refuse_nonsense()
        self.sync_if_due()
        if not self._chunks and not self._left_in_round:
            self._next_round()
        return came

    def record_crash(self, unit_ids: list[str]) -> None:
        """Notes that the engine died with these units in flight; they stay handed out."""
        for chunk in self._chunks.values():
            mine = [unit_id for unit_id in unit_ids if unit_id in chunk.units]
            if mine:
                journal = self._journal(chunk)
                journal.append([{"crashed": mine}])
                journal.sync()
                self.crashes.update(mine)

    def suspects(self) -> list[Prepared]:
        """Takes the units that an engine died of in an earlier life of this shard. `take` leaves them
        alone."""
        taken, self._suspects = self._suspects, []
        return [self._prepare(unit) for unit in taken]

    @property
    def answered(self) -> bool:
        """Whether an engine has ever finished a unit of this shard."""
        total = self.total()
        return total.units > total.reasons["finish:quarantined"]

    def total(self) -> Counts:
        """The counts of everything finished, unfinished chunks included."""
        total = Counts()
        for counts in self._all_counts():
            total.add_counts(counts)
        return total

    def _all_counts(self) -> list[Counts]:
        return [self.counts, *(chunk.counts for chunk in self._chunks.values())]

    def sync_if_due(self) -> None:
        """Flushes the journals to disk if the last time is `SYNC_S` ago."""
        if time.monotonic() - self._synced >= SYNC_S:
            self.sync()

    def sync(self) -> None:
        for chunk in self._chunks.values():
            if chunk.journal:
                chunk.journal.sync()
        self._synced = time.monotonic()

    def close(self) -> None:
        """Flushes and lets go of the shard."""
        try:
            self.sync()
        finally:
            for chunk in self._chunks.values():
                if chunk.journal:
                    chunk.journal.close()
            if self._lock is not None:
                self._lock.close()

    def _prepare(self, unit: Unit) -> Prepared:
        prepared = self._prepared[unit.unit_id] = self.preparer.prepare(unit)
        return prepared

    def _settle(self, chunk: Chunk, completion: Completion, engine: str) -> str:
        prepared = self._prepared.pop(completion.unit_id, None)
        prepared = prepared or self.preparer.prepare(chunk.units[completion.unit_id])
        reason = reason_of(completion, prepared, self.plan)
        chunk.rows[completion.unit_id] = row_of(
            completion, prepared, reason, self.plan, shard=self.number, round=chunk.round, engine=engine
        )
        chunk.counts.add(completion, reason)
        return reason

    def _as_kept(self, completion: Completion) -> Completion:
        """The completion with the deaths that it survived counted as attempts, and halves of surrogate pairs,
        which no file can hold, made question marks before anything is decided."""
        died = 0 if completion.finish_reason == "quarantined" else self.crashes[completion.unit_id]
        if completion.text.isascii() and completion.error.isascii() and not died:
            return completion
        text, error = (
            value.encode("utf-8", "replace").decode() for value in (completion.text, completion.error)
        )
        return replace(completion, text=text, error=error, attempts=completion.attempts + died)

    def _is_uncounted(self, completion: Completion) -> bool:
        """Whether the budget counts tokens of this answer that the engine did not."""
        budget = self.plan.config.samples.budget
        if self.stage == "tasks" or budget.tokens is None:
            return False
        return not completion.tokens_out or (budget.count_prompt and not completion.tokens_in)

    def _refuse_uncounted(self) -> None:
        """Raises MghError if more than a tenth of what was accepted was not counted: the budget would be
        overshot by as much."""
        if self._accepted >= LEAST_BEFORE_GIVING_UP and self._uncounted > self._accepted / 10:
            self.sync()
            raise self._uncountable(self._uncounted, self._accepted)

    def _uncountable(self, uncounted: int, accepted: int) -> MghError:
        return MghError(
            f"the engine does not say of {uncounted} of {accepted} accepted answers of stage {self.stage}, "
            f"shard {self.number}, how many tokens they have, and samples.budget.tokens counts them: let the "
            "server report usage and run again, or make a plan with samples.budget.samples"
        )

    def _refuse_nonsense(self) -> None:
        """Raises MghError if nothing that came so far counts towards the goal. What was mended meanwhile
        shows in a few answers, so a restart asks for some before it gives up again."""
        if any(self._reached(counts) for counts in self._all_counts()):
            return
        found = self.total()
        most = min(GIVE_UP_AFTER, max(LEAST_BEFORE_GIVING_UP, self._rounds[0]))
        if self._came < LEAST_BEFORE_GIVING_UP or found.units < most:
            return
        self.sync()
        if found.accepted:
            raise self._uncountable(found.accepted, found.accepted)
        where = f"of the first {found.units} answers of stage {self.stage}, shard {self.number}"
        common = ", ".join(f"{reason} ({count})" for reason, count in found.reasons.most_common(4))
        said = f"; the last with: {self._said}" if self._said else ""
        raise MghError(
            f"none {where} can be used: {common}{said}. They are kept in {self.folder}. Mend the engine and "
            "run again, which goes on with other prompts; other templates or filters need a new plan"
        )

    def _reached(self, counts: Counts) -> int:
        """How far these counts are, in the goal's unit."""
        return progress_of(self.plan, self.stage, counts)

    def _remove_stale_files(self) -> None:
        """Removes what a killed worker left half-written; it was never visible under a final name. Only what
        is old: where locks do not work, another worker may be writing."""
        for path in self.folder.glob(".*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink()

    def _next_round(self) -> None:
        """Opens the next round, or ends the shard: its goal is met, or it had rounds enough."""
        reached = self._reached(self.counts)
        missing = self.goal - reached
        number = len(self._rounds)
        if not reached:  # something is wrong: once it is mended, these rounds are not held against the rest
            self._barren_rounds, self._barren_units = number, self.counts.units
        path = self.folder / f"round-{number:02d}.json"
        # A round that was begun is worked through, even if parts that were lost and made anew yield more now.
        if not path.exists():
            if missing <= 0 or number - self._barren_rounds >= self.plan.config.samples.max_rounds:
                self._finish_shard(short=missing > 0)
                return
            write_new_json(path, {"round": number, "units": self._round_size(missing)})
        self._left_in_round = files.read_json(path)["units"]
        self._rounds.append(self._left_in_round)

    def _finish_shard(self, *, short: bool) -> None:
        self.done, self.short = True, short
        content = {"short": short, "parts": self._next_chunk, "rounds": len(self._rounds)}
        write_new_json(self.folder / "done.json", content | self.counts.as_json())

    def _round_size(self, missing: int) -> int:
        """How many units should yield what is missing, judging by those so far."""
        if not self._rounds:
            in_tokens = self.stage == "samples" and self.plan.config.samples.budget.tokens is not None
            return self.plan.config.chunk if in_tokens else missing
        reached = self._reached(self.counts)
        if not reached:
            return self._rounds[-1]
        return math.ceil(missing * (self.counts.units - self._barren_units) / reached)

    def _open_chunk(self) -> None:
        """The next chunk of the round: counted if its part is there, else with what its journals hold."""
        size = min(self.plan.config.chunk, self._left_in_round)
        units = {unit.unit_id: unit for unit in itertools.islice(self._stream, size)}
        chunk = Chunk(self._next_chunk, len(self._rounds) - 1, units, dict(units))
        self._left_in_round -= size
        self._next_chunk += 1
        if self._counted_part(chunk):
            return
        (self.folder / "done.json").unlink(missing_ok=True)  # a part of a finished shard was lost
        self._chunks[chunk.number] = chunk
        self._chunk_of.update(dict.fromkeys(units, chunk))
        for path in self._journals(chunk.number):
            for entry in read_journal(path):
                self._replay(chunk, entry)
        for unit_id in [unit_id for unit_id in chunk.pending if self.crashes[unit_id]]:
            self._suspects.append(chunk.pending.pop(unit_id))
        self._close_if_complete(chunk)

    def _replay(self, chunk: Chunk, entry: dict[str, Any]) -> None:
        if "crashed" in entry:
            self.crashes.update(unit_id for unit_id in entry["crashed"] if unit_id in chunk.units)
            return
        engine = entry.pop("engine")
        if entry["unit_id"] in chunk.pending:
            del chunk.pending[entry["unit_id"]]
            self._settle(chunk, Completion(**entry), engine)

    def _counted_part(self, chunk: Chunk) -> bool:
        """Whether the chunk's part is there and whole; a damaged one is put aside."""
        path = part_path(self.folder, chunk.number)
        if not path.exists():
            return False
        try:
            summary = read_summary(path)
            found = set(read_part(path).column("unit_id").to_pylist())
            whole = found == chunk.units.keys() and summary.scope == self.scope
        except MghError:
            whole = False
        if not whole:
            path.replace(path.with_name(path.name + ".damaged"))
            return False
        self.counts.add_counts(summary.counts)
        self._remove_journals(chunk.number)
        return True

    def _close_if_complete(self, chunk: Chunk) -> None:
        if len(chunk.rows) < len(chunk.units):
            return
        summary = PartSummary(self.scope, self.number, chunk.round, chunk.number, chunk.counts)
        path = part_path(self.folder, chunk.number)
        write_part(path, list(chunk.rows.values()), summary)
        self.counts.add_counts(read_summary(path).counts)  # not ours, if somebody else's was there first
        if chunk.journal:
            chunk.journal.close()
        self._remove_journals(chunk.number)
        del self._chunks[chunk.number]
        for unit_id in chunk.units:
            del self._chunk_of[unit_id]

    def _journal(self, chunk: Chunk) -> Journal:
        if chunk.journal is None:
            name = f"chunk-{chunk.number:05d}.{secrets.token_hex(6)}.journal"
            chunk.journal = Journal(self.folder / name)
        return chunk.journal

    def _journals(self, number: int) -> list[Path]:
        return sorted(self.folder.glob(f"chunk-{number:05d}.*.journal"))

    def _remove_journals(self, number: int) -> None:
        for path in self._journals(number):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
