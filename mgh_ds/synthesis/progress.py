"""What a worker shows while it works: one line on a terminal, a line now and then in a log, and a small
file that `mgh-ds synth status` reads."""

import datetime
import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from mgh_ds.common import files
from mgh_ds.synthesis.counts import Counts, goal_of, progress_of
from mgh_ds.synthesis.plan import SynthesisPlan
from mgh_ds.synthesis.units import SynthesisStage

TERMINAL_S, LOG_S, FILE_S = 0.5, 30.0, 5.0
CLEAR = "\r\x1b[2K"  # the terminal's row


class WorkerProgress:
    """One worker's progress. `name` is the worker's: host and process. `stop_with`, once set, is raised by
    the next `show` or `wait`."""

    def __init__(self, plan: SynthesisPlan):
        self.plan = plan
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self.counts = Counts()
        self.stop_with: BaseException | None = None
        self._stage: SynthesisStage = "tasks"
        self._shards: list[int] = []
        self._goal = self._reached = 0
        self._began = self._shown = self._written = 0.0
        self._terminal = sys.stderr.isatty()
        self._path = plan.folder / "work" / "workers" / f"{self.name}.json"

    def begin(self, stage: SynthesisStage, shards: Sequence[int]) -> None:
        """A stage begins, or goes on after a wait."""
        if stage != self._stage or not self._began:
            self.counts, self._reached = Counts(), 0
            self._began = time.monotonic()
        self._stage, self._shards = stage, list(shards)
        self._goal = sum(goal_of(self.plan, stage, shard) for shard in shards)

    def count(self, came: Counts) -> None:
        """Answers came back."""
        self.counts.add_counts(came)

    def wait(self, seconds: float) -> None:
        """Sleeps while others work."""
        if self.stop_with is not None:
            raise self.stop_with
        time.sleep(seconds)

    def show(self, reached: int) -> None:
        """Shows the line and writes the file if it is time. `reached` is in the goal's unit, earlier work
        included."""
        if self.stop_with is not None:
            raise self.stop_with
        self._reached, now = reached, time.monotonic()
        if now - self._shown >= (TERMINAL_S if self._terminal else LOG_S):
            self._shown = now
            if self._terminal:
                # Cut, since only the row that the cursor is in can be cleared.
                cut = self.line()[: shutil.get_terminal_size().columns - 1]
                print(CLEAR + cut, end="", file=sys.stderr, flush=True)
            else:
                print(self.line(), file=sys.stderr, flush=True)
        if now - self._written >= FILE_S:
            self._written = now
            self._path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(self._path, self.as_json())

    def line(self) -> str:
        """The progress line: what came so far, how fast, and when it will be finished."""
        counts, seconds = self.counts, max(time.monotonic() - self._began, 1e-9)
        refused = ", ".join(f"{reason} {count}" for reason, count in counts.reasons.most_common(3))
        gained = progress_of(self.plan, self._stage, counts)
        tokens = f"{counts.said_in} in, {counts.said_out} out"
        if counts.out_per_accepted is not None:
            rate = counts.tokens_out / seconds
            tokens += f", {rate:,.0f} out/s, {counts.out_per_accepted:,.0f} out an accepted sample"
        text = (
            f"{self._stage}: {counts.accepted:,} accepted, {counts.units - counts.accepted:,} refused"
            f"{f' ({refused})' if refused else ''}; tokens {tokens}"
        )
        if gained and self._goal > self._reached:
            left = (self._goal - self._reached) / gained * seconds
            finish = datetime.datetime.now() + datetime.timedelta(seconds=left)
            text += f"; {100 * self._reached / self._goal:.1f} %, done about {finish:%Y-%m-%d %H:%M}"
        return text

    def log(self, text: str) -> None:
        """Prints a line of its own."""
        print((CLEAR if self._terminal else "") + text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """The worker ends: its last line stays, its file goes."""
        if self._began:
            self.log(self.line())
        self._path.unlink(missing_ok=True)

    def as_json(self) -> dict[str, Any]:
        seconds, counts = max(time.monotonic() - self._began, 1e-9), self.counts
        counted = counts.counted_out == counts.answered
        return {
            "worker": self.name,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "stage": self._stage,
            "shards": self._shards,
            "tokens_out_per_s": round(counts.tokens_out / seconds, 1) if counted else None,
            **counts.as_json(),
        }
