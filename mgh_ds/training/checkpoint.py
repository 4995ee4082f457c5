"""Checkpoints that are complete or invisible, that any number of ranks goes on from, and that ask for no more
memory the larger they are.

    checkpoints/step-000100/
      weights.safetensors     the trained weights, float32, by parameter name; what export reads
      optimizer.safetensors   Adam's moments
      manifest.json           step, updates, identity of the run, sha256 of both files and of all this

The ranks put the state together on rank 0, a tensor at a time; a thread there writes each into a hidden
folder, flushes the whole to the disk and makes it visible by one rename. The bytes between the two are
bounded. Adapters fit, so training does not wait for the disk; with all weights of a large model it does.
"""

import hashlib
import json
import queue
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgh_ds.common import files
from mgh_ds.common.differences import Difference, differences
from mgh_ds.common.errors import MghError
from mgh_ds.training.state import TrainingState
from mgh_ds.training.tensor_file import open_file, write_file
from mgh_ds.training.tensor_queue import TensorQueue

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
BACKBONE = "backbone"  # in the identity: its fingerprint
# Of tensors between the gathering and the disk. Adapters of rank 32 on a 7B model fit (12 bytes a weight).
BYTES_UNDER_WAY = 2**30

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Written:
    """A checkpoint that has become visible."""

    step: int
    bytes: int
    seconds: float  # in the background


class CheckpointWriter:
    """Writes one checkpoint at a time, in a thread of rank 0.

    `best` is a step whose checkpoint stays beside the newest ones, if one is set.

    Args:
        folder: parent of all checkpoints of the run.
        keep: how many of the newest stay.
        before_commit: called in the thread before a checkpoint becomes visible; flushes what must not be
            older than it.
    """

    def __init__(self, folder: Path, keep: int, before_commit: Callable[[], None]) -> None:
        self.folder, self.keep, self.before_commit = folder, keep, before_commit
        self._thread: threading.Thread | None = None
        self._written: queue.SimpleQueue[Written] = queue.SimpleQueue()
        self.problem: str | None = None  # why the last one could not be written
        self.best: int | None = None

    def begin(self, state: TrainingState, step: int, identity: dict[str, Any]) -> None:
        """Starts writing the state after `step` steps, and reads it to its end for the thread that writes.

        Waits for the checkpoint before, if that is still being written, and while more than BYTES_UNDER_WAY
        of this one wait for the disk. Where writing fails, the state is read to its end all the same, since
        the other ranks take part in that; `problem` says why.
        """
        self.wait()
        details = {"step": step, "updates": state.updates, "identity": identity}
        tensors = TensorQueue(BYTES_UNDER_WAY)
        self._thread = threading.Thread(target=self._write, args=(state, tensors, details), name="checkpoint")
        self._thread.start()
        try:
            for tensor in state.tensors():
                tensors.put(tensor)
        except BaseException:
            tensors.abandon()  # else the thread, and with it the process, would wait for ever
            raise

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def take_written(self) -> list[Written]:
        """The checkpoints that have become visible since the last call."""
        return [self._written.get() for _ in range(self._written.qsize())]

    def _write(self, state: TrainingState, tensors: TensorQueue, details: Manifest) -> None:
        begin = time.perf_counter()
        path = self.folder / f"step-{details['step']:06d}"
        try:
            self.before_commit()
            with files.new_folder(path, replace=True) as folder:  # only a damaged one can stand there
                digests = {
                    name: write_file(folder / name, part.shapes, tensors.take)
                    for name, part in ((WEIGHTS, state.weights), (OPTIMIZER, state.moments))
                }
                size = sum((folder / name).stat().st_size for name in digests)
                manifest = details | {"files": digests}
                files.write_json(folder / MANIFEST, manifest | {"sha256": _digest(manifest)})
        except Exception as error:  # nobody else would see what ends a thread
            self.problem = f"checkpoint {path} could not be written: {error}; those before it are untouched"
            return
        finally:
            tensors.abandon()  # whoever still brings some is not held up
        self._written.put(Written(details["step"], size, time.perf_counter() - begin))
        self._remove_others(details["step"])

    def tidy(self) -> None:
        """Removes what is not kept any more, since another checkpoint is the best. Nothing may be being
        written."""
        found = checkpoints(self.folder)
        if found:
            self._remove_others(max(found))

    def _remove_others(self, step: int) -> None:
        """Keeps the newest and the best; those of a later step are damaged ones that the run had to go back
        behind."""
        found = checkpoints(self.folder)
        older = [number for number in found if number <= step]
        kept = {*older[-self.keep :], self.best}
        for number, path in found.items():
            if number > step or number not in kept:
                shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed process had begun to write."""
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def checkpoints(folder: Path) -> dict[int, Path]:
    """Step → folder, in the order of the steps."""
    found = {int(path.name[5:]): path for path in folder.glob("step-*") if path.name[5:].isdecimal()}
    return dict(sorted(found.items()))


def newest(folder: Path) -> tuple[Path, Manifest] | None:
    """The newest complete checkpoint and its manifest, or None if there is no checkpoint; one whose files do
    not match their checksums is passed over.

    Raises MghError if there are checkpoints and all are damaged: to begin anew is the user's to decide.
    """
    found = checkpoints(folder)
    for path in reversed(found.values()):
        manifest = _intact(path)
        if manifest is not None:
            return path, manifest
        print(f"{path} is damaged and was passed over")
    if found:
        raise MghError(
            f"none of the {len(found)} checkpoints in {folder} can be read: restore one from a backup, or "
            "remove them to train from the start"
        )
    return None


def of_step(folder: Path, step: int) -> tuple[Path, Manifest]:
    """The checkpoint of a step and its manifest. Raises MghError if it is not there, or damaged."""
    found = checkpoints(folder)
    if step not in found:
        steps = ", ".join(map(str, found))
        raise MghError(f"{folder} has no checkpoint of step {step}; it has those of {steps or 'none'}")
    manifest = _intact(found[step])
    if manifest is None:
        raise MghError(f"{found[step]} is damaged: export another one (--checkpoint newest, or a step)")
    return found[step], manifest


def load(path: Path, manifest: Manifest) -> TrainingState:
    """The state that a checkpoint holds; its tensors are read when they are asked for."""
    return TrainingState(
        open_file(path / WEIGHTS), open_file(path / OPTIMIZER), updates=int(manifest["updates"])
    )


def check(path: Path, manifest: Manifest, identity: dict[str, Any], accepted: Sequence[str] = ()) -> None:
    """Raises MghError, naming what differs, when the checkpoint was made from another recipe or other data,
    but for the keys that are `accepted` by name; or when an accepted name is no key. A checkpoint that does
    not know its backbone fits any."""
    if BACKBONE not in manifest["identity"]:
        identity = {name: value for name, value in identity.items() if name != BACKBONE}
    found = differences(manifest["identity"], identity)
    known = _keys(identity) | _keys(manifest["identity"]) | {difference.key for difference in found}
    unknown = [key for key in accepted if key not in known]
    if unknown:
        raise MghError(f"accept_changes: {unknown[0]} is no key that a checkpoint and its run have in common")
    refused = [difference for difference in found if difference.key not in accepted]
    if refused:
        names = ", ".join(f'"{difference.key}"' for difference in refused)
        raise MghError(
            f"{path} belongs to another run; differing: {'; '.join(map(str, refused))}. Choose "
            f"another --name, or go on all the same with --accept_changes '[{names}]'"
        )


def lacks_backbone(path: Path, manifest: Manifest) -> str | None:
    """What to say of a checkpoint of before there were fingerprints of backbones; None of any other."""
    if BACKBONE in manifest["identity"]:
        return None
    return f"{path} does not say which files its backbone had: that they are the same cannot be checked"


def backbone_changes(
    manifest: Manifest, backbone: Mapping[str, str], accepted: Sequence[str] = ()
) -> list[Difference]:
    """Where the backbone is not the one that the checkpoint was made with, but for the keys that are
    `accepted`; none for a checkpoint that does not know its backbone."""
    found = differences(manifest["identity"].get(BACKBONE, backbone), backbone, BACKBONE)
    return [difference for difference in found if difference.key not in accepted]


def _intact(path: Path) -> Manifest | None:
    """The manifest of a checkpoint that is as it was written, else None."""
    try:
        manifest: Manifest = files.read_json(path / MANIFEST)
        if manifest.pop("sha256") != _digest(manifest):
            return None
        whole = all(files.sha256(path / name) == digest for name, digest in manifest["files"].items())
    except (MghError, FileNotFoundError, AttributeError, TypeError, KeyError):
        return None  # other errors of the disk may pass, and are none of the checkpoint's
    return manifest if whole else None


def _keys(nested: Any, key: str = "") -> set[str]:
    if not isinstance(nested, dict):
        return {key}
    return {key}.union(*(_keys(value, f"{key}.{name}" if key else name) for name, value in nested.items()))


def _digest(manifest: Manifest) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
