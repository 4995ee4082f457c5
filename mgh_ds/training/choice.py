"""Which of a run's checkpoints is meant: the best, the newest, or one by its step."""

from pathlib import Path
from typing import NamedTuple

from mgh_ds.common.errors import MghError
from mgh_ds.training import checkpoint
from mgh_ds.training.evaluations import best_step, evaluation_lines
from mgh_ds.training.run_folder import RunFolder


class Choice(NamedTuple):
    """A checkpoint of a run."""

    path: Path
    step: int
    words: str  # which it is among the run's: "the best by SciFact, of step 50"
    manifest: checkpoint.Manifest


def choose(run: Path, metric: str | None, which: str | None = None) -> Choice:
    """The checkpoint of `run` that `which` names, "best" by the metric, "newest", or the number of a step;
    None: the best where there is a metric, else the newest. Raises MghError if there is none."""
    folder = RunFolder(run)
    best = best_step(evaluation_lines(folder), metric)
    if which == "best" and best is None:
        raise MghError(
            f"{run} has no best checkpoint: {'nothing was scored' if metric else 'no evaluation.metric'} "
            "(--checkpoint newest)"
        )
    if which == "best" or (which is None and best is not None):
        assert best is not None
        try:
            path, manifest = checkpoint.of_step(folder.checkpoints, best)
            return Choice(path, best, f"the best checkpoint by {metric}, of step {best}", manifest)
        except MghError as error:
            if which == "best":
                raise
            print(f"the best checkpoint by {metric} cannot be taken, so the newest is: {error}")
    if which in (None, "newest"):
        found = checkpoint.newest(folder.checkpoints)
        if found is None:
            raise MghError(f"{run} has no complete checkpoint to export yet")
        path, manifest = found
        step = int(manifest["step"])
        return Choice(path, step, f"the newest checkpoint, of step {step}", manifest)
    if not which.isdecimal():
        raise MghError(f"--checkpoint is {which!r}; it must be best, newest or the number of a step")
    path, manifest = checkpoint.of_step(folder.checkpoints, int(which))
    return Choice(path, int(which), f"the checkpoint of step {which}", manifest)
