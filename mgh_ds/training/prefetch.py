"""Prefetches each step's micro-batches: they are read and tokenised before the step asks for them.

A stage's records come from a shard on a node-local disk, which is written while the stage before trains. Two
background threads work for it, one that reads and tokenises the next steps and one that writes; neither
communicates with other ranks. At a boundary the ranks verify together that they have what the plan says,
and only then is anything of the new stage read ahead.
"""

import contextlib
import dataclasses
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum.loader import Loader, MicroBatch, RecordStore
from mgh_ds.curriculum.plan import TrainingPlan
from mgh_ds.curriculum.shards import (
    LocalStage,
    ShardError,
    StageRecords,
    StoreRecords,
    remove_old_shards,
    remove_shard,
)
from mgh_ds.distributed.group import rank, world_size
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.records.schema import Record
from mgh_ds.records.store import to_records
from mgh_ds.training.batch import Batch, make_batch
from mgh_ds.training.stage_data import Prepared, log_line, prepare, verify

DEPTH = 2  # steps that are kept ready

MakeBatch = Callable[[MicroBatch, Tokenizer, int], Any]
"""A micro-batch's texts, a tokenizer and the step → what an objective trains on, on the CPU."""


def make_contrastive(texts: MicroBatch, tokenizer: Tokenizer, _step: int) -> Batch:
    """`make_batch`, the same in every step."""
    return make_batch(texts, tokenizer)


def shards_folder(setting: str | None, run: Path) -> Path:
    """Where a run keeps its shards: `<run>/shards`, or a folder of its own inside the one that `data.shards`
    names, whose environment variables are filled in. Raises MghError for one that is not set."""
    if setting is None:
        return run / "shards"
    expanded = os.path.expandvars(setting)
    if "$" in expanded:
        raise MghError(
            f"data.shards is {setting}, but the environment has no such variable: set it, or give another "
            "folder on a node-local disk"
        )
    own = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:8]  # runs elsewhere may have its name
    return Path(expanded) / f"{run.name}-{own}"


class Prefetcher:
    """The batches of every step from `first_step` on, in order. Use it in a `with` block.

    All ranks must take the same steps: the first one, and the first of each stage, communicates. The
    tokenizer belongs to the prefetcher until the block ends. `make` turns texts into batches.
    """

    def __init__(
        self,
        store: RecordStore,
        plan: TrainingPlan,
        tokenizer: Tokenizer,
        *,
        folder: Path,
        first_step: int,
        make: MakeBatch = make_contrastive,
    ) -> None:
        self.store, self.plan, self.tokenizer, self.folder = store, plan, tokenizer, folder
        self._make = make
        self._stop = Event()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="prefetch-reader")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="prefetch-writer")
        self._ahead: deque[Future[list[Any]]] = deque()
        self._next = self._submitted = self._boundary = first_step
        self._coming: Future[Prepared] | None = None
        self._rows: StageReader | None = None
        self._ended = False

    def __enter__(self) -> Self:
        self._prepare_stage()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._rows is not None:
            self._rows.leave()
        for executor in (self._reader, self._writer):
            executor.shutdown(cancel_futures=True)
        if kind is None and (self._ended or self._next == self.plan.steps):
            for local in self._begun():
                remove_shard(self.folder, local)
            with contextlib.suppress(OSError):  # others still have something there
                self.folder.rmdir()

    def end(self) -> None:
        """The run ends here, before the plan does: what was prepared may go when the block ends."""
        self._ended = True

    def _begun(self) -> Iterator[LocalStage]:
        """The stages that may have a shard: this one, and the next, whose writing may have been interrupted
        at any point."""
        if self._rows is not None:
            yield self._rows.local
        if self._boundary < self.plan.steps:
            yield self._local(self._boundary)

    def take(self, step: int) -> tuple[list[Any], float]:
        """This rank's micro-batches of a step, on the CPU, and the seconds waited for them.

        Steps are taken one after another. Raises MghError if the records cannot be read or are not what the
        plan says.
        """
        if step != self._next:
            raise ValueError(f"step {step} was asked for where {self._next} is the next")
        begin = time.perf_counter()
        if step == self._boundary:
            self._begin_stage()
        self._read_ahead()
        batches = self._ahead.popleft().result()
        self._next += 1
        self._read_ahead()
        return batches, time.perf_counter() - begin

    def _prepare_stage(self) -> None:
        """Begins to write the shard of the stage at `_boundary`."""
        if self._boundary < self.plan.steps:
            self._coming = self._writer.submit(
                prepare, self.store, self._local(self._boundary), self.folder, self._stop
            )

    def _begin_stage(self) -> None:
        assert self._coming is not None
        found: Prepared | Exception
        try:
            found = self._coming.result()
        except Exception as error:  # the other ranks must hear of it before it is raised
            found = error
        prepared = verify(self._local(self._boundary), self.store.manifest_hash, found)
        if self._rows is not None:
            self._rows.leave()
        remove_old_shards(self.folder, prepared.local)
        self._rows = StageReader(self.store, prepared, self._rewrite)
        self._boundary = prepared.local.steps.stop
        self._prepare_stage()

    def _local(self, first_step: int) -> LocalStage:
        return LocalStage(self.plan, self.plan.stage(first_step), first_step, world_size(), rank())

    def _rewrite(self, local: LocalStage, stop: Event) -> Future[Prepared]:
        remove_shard(self.folder, local)
        return self._writer.submit(prepare, self.store, local, self.folder, stop)

    def _read_ahead(self) -> None:
        """Keeps `DEPTH` steps under way, but none beyond the stage that was proved."""
        while len(self._ahead) < DEPTH and self._submitted < self._boundary:
            assert self._rows is not None
            self._ahead.append(self._reader.submit(self._batches, self._rows, self._submitted))
            self._submitted += 1

    def _batches(self, rows: "StageReader", step: int) -> list[Any]:
        local = rows.local
        batches = Loader(self.store, self.plan).lay_out(
            step, local.world_size, local.rank, rows.records(step)
        )
        return [self._make(batch, self.tokenizer, step) for batch in batches]


class StageReader:
    """Reads a stage's records from where they were prepared, and from the store when a shard fails in use,
    until it has been written anew."""

    def __init__(
        self,
        store: RecordStore,
        prepared: Prepared,
        rewrite: Callable[[LocalStage, Event], Future[Prepared]],
    ) -> None:
        self.store, self.local = store, prepared.local
        self._rows: StageRecords = prepared.rows
        self._rewrite = rewrite
        self._rewritten: Future[Prepared] | None = None
        self._left = Event()

    def leave(self) -> None:
        """The stage is over: a shard that is being written anew for it is not finished. Its files may be
        removed after this."""
        self._left.set()
        if self._rewritten is not None and not self._rewritten.cancel():
            wait([self._rewritten])

    def records(self, step: int) -> list[Record]:
        """This rank's records of a step. Raises MghError if the store is damaged too."""
        if self._rewritten is not None and self._rewritten.done():
            self._rows, self._rewritten = self._rewritten.result().rows, None
        if not isinstance(self._rows, StoreRecords):
            try:
                return self._checked(step)
            except (OSError, ShardError, ValidationError) as error:
                self._give_up(error, step)
        return self.store.rows(self.local.rows(step))

    def _checked(self, step: int) -> list[Record]:
        found = self._rows.read(step)
        wanted = self.local.plan.index.id_hash[self.local.rows(step)]
        if found["id_hash"].to_pylist() != wanted.tolist():
            raise ShardError(f"the shard holds other records than the plan says for step {step}")
        return to_records(found)

    def _give_up(self, error: Exception, step: int) -> None:
        log_line(self.local, f"{error}: it is written anew, and the store itself read meanwhile")
        self._rows = StoreRecords(self.store, self.local)
        if step + 1 in self.local.steps:
            following = dataclasses.replace(self.local, first_step=step + 1)
            self._rewritten = self._rewrite(following, self._left)
