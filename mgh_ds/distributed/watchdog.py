"""Ends a job whose ranks have lost each other, with the name of the one that is missing.

A collective waits for every rank, so one that was killed, stopped or cut off would hold all others until the
group's time-out, hours later. Each rank therefore counts up a heartbeat in the key-value store that the
launcher's rendezvous has left on rank 0. Rank 0 watches every heartbeat, the others watch rank 0's, and
whoever sees none for the limit says so and ends its process; nothing is lost, since checkpoints are complete
or invisible. A rank that fails alone leaves its reason in the store, and the others end with it at once.
"""

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import torch.distributed as dist

from mgh_ds.common.errors import MghError
from mgh_ds.distributed.exits import ExitCode
from mgh_ds.distributed.group import barrier, rank, world_size

Beats = dict[int, bytes]


class Silence:
    """How long each rank's heartbeat has not changed, by this process's own clock."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._last_look: float | None = None

    def longest(self, beats: Beats, now: float) -> tuple[int, float] | None:
        """The rank that has been silent longest, and for how many seconds, if that is beyond the limit.

        A look that comes late means that this process itself stood still (a suspended job): everyone gets a
        fresh start then.
        """
        late = self._last_look is not None and now - self._last_look > self.limit_s / 2
        self._last_look = now
        for number, beat in beats.items():
            if late or number not in self._seen or self._seen[number][0] != beat:
                self._seen[number] = (beat, now)
        silent = {number: now - since for number, (_, since) in self._seen.items()}
        number = max(silent, key=lambda each: silent[each])
        return (number, silent[number]) if silent[number] > self.limit_s else None


class Watchdog:
    """Watches the other ranks, and the launcher, while the block lasts.

    Args:
        limit_s: seconds without a sign of life after which a rank counts as lost.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._interval_s = min(5.0, limit_s / 8)
        self._watched = range(world_size()) if rank() == 0 else range(1)
        self._beats: Beats = dict.fromkeys(self._watched, b"")
        self._verdict: tuple[ExitCode, str] | None = None
        self._launchers = _deepspeed_launchers()
        self._stopping = threading.Event()
        # Two threads, since one that asks a frozen rank 0 hangs as the collectives do.
        self._talking = threading.Thread(target=self._talk, name="heartbeat", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._store = _connect()
        self._store.set(f"name/{rank()}", f"{socket.gethostname()}, process {os.getpid()}")
        self._store.set(f"beat/{rank()}", "0")
        barrier()
        self._name_of_main = self._name(0)
        self._talking.start()
        self._watching.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            barrier()  # rank 0 must not take its store away while others look into it
        elif is_lost_connection(error):
            # The survivors of a lost rank get here at once: what is missing is its name, or its reason, with
            # which the watching thread ends this process.
            self._watching.join(2 * self.limit_s)
            first = str(error).splitlines()[0]
            _leave(ExitCode.RANK_LOST, f"the connection to another rank was lost: {first}")
        else:
            self._tell(error)
        self._stopping.set()
        self._watching.join()
        # Whoever is asking the store when the interpreter ends is torn out of it, and the process with it.
        self._talking.join(self.limit_s)

    def _tell(self, error: BaseException) -> None:
        """Ends the other ranks with this one's error, unless all of them have come to it."""
        try:
            self._store.add("failed", 1)
            until = time.monotonic() + 3 * self._interval_s
            while self._store.add("failed", 0) < world_size():
                if time.monotonic() > until:
                    reason = f"{type(error).__name__}: {error}" if not isinstance(error, MghError) else error
                    self._announce(ExitCode.MEND, f"rank {rank()} ({self._name(rank())}): {reason}")
                    return
                time.sleep(0.05)
        except RuntimeError:  # rank 0 has ended meanwhile, and its store with it
            return

    def _announce(self, code: ExitCode, reason: str) -> None:
        self._store.set("verdict", json.dumps([code, reason]))
        if rank() == 0:
            time.sleep(3 * self._interval_s)  # the others look for it once an interval

    def _talk(self) -> None:
        """Tells the store that this rank lives, and asks it who else does."""
        keys = [f"beat/{number}" for number in self._watched]
        beat = 0
        while not self._stopping.wait(self._interval_s):
            beat += 1
            try:
                self._store.set(f"beat/{rank()}", str(beat))
                if self._store.check(["verdict"]):
                    code, reason = json.loads(self._store.get("verdict"))
                    self._verdict = ExitCode(code), reason
                self._beats = dict(zip(self._watched, self._store.multi_get(keys), strict=True))
            except RuntimeError:  # nobody answers: rank 0's heartbeat stays as it was
                continue

    def _watch(self) -> None:
        silence = Silence(self.limit_s)
        while not self._stopping.wait(self._interval_s):
            if self._launchers is not None and _deepspeed_launchers() != self._launchers:
                _leave(ExitCode.RANK_LOST, "the launcher is gone")
            if self._verdict is not None:
                _leave(*self._verdict, say=rank() == 0)
            lost = silence.longest(self._beats, time.monotonic())
            if lost is not None:
                self._pronounce(*lost)

    def _pronounce(self, number: int, seconds: float) -> NoReturn:
        name = self._name(number) if rank() == 0 else self._name_of_main
        reason = f"rank {number} ({name}) has given no sign of life for {seconds:.0f} s"
        if rank() == 0:
            self._announce(ExitCode.RANK_LOST, reason)
        _leave(ExitCode.RANK_LOST, reason)

    def _name(self, number: int) -> str:
        return str(self._store.get(f"name/{number}").decode())


def _connect() -> dist.Store:
    """A connection of its own: the process group's would wait for its collectives."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.PrefixStore("watchdog", dist.TCPStore(address, port, is_master=False))


def _leave(code: ExitCode, reason: str, *, say: bool = True) -> NoReturn:
    """Ends this process from any thread: the main one hangs in a collective that never returns."""
    advice = "; start the same command again to go on" if code == ExitCode.RANK_LOST else ""
    if say:
        print(f"error: {reason}{advice}", file=sys.stderr, flush=True)
    os._exit(code)


def is_lost_connection(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone: nobody but the watchdog should catch that."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "by peer"))


def _deepspeed_launchers() -> tuple[int, int] | None:
    """Process ids of DeepSpeed's launcher, if that is this rank's parent, and of what started it: the
    `deepspeed` command, or ssh's shell. Killed by force, either leaves the ranks alone."""
    parent = os.getppid()
    try:
        if b"deepspeed.launcher.launch" not in Path(f"/proc/{parent}/cmdline").read_bytes():
            return None
        _, _, status = Path(f"/proc/{parent}/stat").read_text().rpartition(")")
    except OSError:
        return None
    return parent, int(status.split()[1])
