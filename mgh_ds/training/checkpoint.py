"""Checkpoints that are complete or invisible.

DeepSpeed writes straight to its final path and moves `latest` before every rank is done. So it saves into a
hidden folder, all ranks meet, rank 0 adds a manifest with the SHA-256 of every file, and one rename makes the
whole visible.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from mgh_ds import files
from mgh_ds.errors import MghError
from mgh_ds.training.distributed import all_sum, barrier, device, gather_objects, is_main, world_size

MANIFEST = "manifest.json"
STATE = "state"  # DeepSpeed's tag, and so its folder's name
WEIGHTS = "trainable.safetensors"  # the trained weights alone, for export: loading them runs no pickle


def save(engine: Any, folder: Path, step: int, identity: dict[str, Any], keep: int) -> int:
    """Writes `folder/step-XXXXXX` after `step` steps and removes all but the newest `keep`; returns its
    bytes.

    `identity` is what a run must have in common to go on from here. Raises MghError on every rank when a rank
    could not write (a full disk, say); checkpoints made before are untouched.
    """
    temporary, final = folder / f".step-{step:06d}", folder / f"step-{step:06d}"
    if is_main():
        for leftover in folder.glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)
    barrier()
    _agree(_write_state(engine, temporary), temporary)
    size, problem = 0, None
    if is_main():
        try:
            save_file(trainable_weights(engine.module), temporary / WEIGHTS)
            size = _publish(
                temporary, final, {"step": step, "world_size": world_size(), "identity": identity}, keep
            )
        except (OSError, SafetensorError) as error:
            problem = error
    _agree(problem, temporary)
    return size


def trainable_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights that training changes, by name; on the CPU."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest complete checkpoint and its manifest; one whose files do not match their checksums is passed
    over."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        manifest = _intact(path)
        if manifest is not None:
            return path, manifest
        print(f"{path} is damaged and was passed over")
    return None


def _intact(path: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint that is as it was written, else None."""
    try:
        manifest = files.read_json(path / MANIFEST)
        whole = all(files.sha256(path / name) == digest for name, digest in manifest["files"].items())
    except (MghError, OSError, TypeError, KeyError):
        return None
    return manifest if whole else None


def check(path: Path, manifest: dict[str, Any], identity: dict[str, Any]) -> None:
    """Raises MghError when the checkpoint was made by another number of ranks or from another recipe or data,
    naming what differs."""
    differing = differences(manifest["identity"], identity)
    if differing:
        raise MghError(
            f"{path} belongs to another run; differing: {'; '.join(differing)}. Choose another --name"
        )
    if manifest["world_size"] != world_size():
        raise MghError(
            f"{path} was written by {manifest['world_size']} ranks, and {world_size()} were started: "
            f"start {manifest['world_size']}, or choose another --name"
        )


def load(engine: Any, path: Path, manifest: dict[str, Any]) -> int:
    """Restores adapter, optimiser and schedule; returns how many steps are done."""
    engine.load_checkpoint(str(path), tag=STATE, load_module_strict=False)
    return int(manifest["step"])


def differences(saved: Any, current: Any, key: str = "") -> list[str]:
    """Where two nested dictionaries differ, as `key: saved → current`."""
    if isinstance(saved, dict) and isinstance(current, dict):
        names = [*saved, *(name for name in current if name not in saved)]
        return [
            line
            for name in names
            for line in differences(saved.get(name), current.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if saved == current else [f"{key}: {saved} → {current}"]


def _publish(temporary: Path, final: Path, manifest: dict[str, Any], keep: int) -> int:
    written = [path for path in sorted(temporary.rglob("*")) if path.is_file()]
    digests = {str(path.relative_to(temporary)): files.sha256(path) for path in written}
    files.write_json(temporary / MANIFEST, manifest | {"files": digests})
    files.sync_tree(temporary)
    shutil.rmtree(final, ignore_errors=True)  # only a damaged one can stand there
    temporary.rename(final)
    files.sync_folder(final.parent)
    for old in sorted(final.parent.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return sum((final / name).stat().st_size for name in digests)


class _Writer:
    """Stands in for DeepSpeed's file writer and keeps a failure for later.

    An exception on one rank inside `save_checkpoint` would leave the others waiting at its barriers.
    """

    def __init__(self, writer: Any) -> None:
        self.writer = writer
        self.problem: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.writer, name)

    def save(self, *arguments: Any, **options: Any) -> None:
        try:
            self.writer.save(*arguments, **options)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            self.problem = self.problem or error


def _write_state(engine: Any, folder: Path) -> Exception | None:
    original = engine.checkpoint_engine
    writer = engine.checkpoint_engine = _Writer(original)
    engine._copy_recovery_script = lambda _: None  # DeepSpeed's scripts, written past its writer; not needed
    try:
        engine.save_checkpoint(str(folder), tag=STATE, save_latest=False, exclude_frozen_parameters=True)
    finally:
        engine.checkpoint_engine = original
    return writer.problem


def _agree(problem: Exception | None, leftovers: Path) -> None:
    """Makes one rank's failure everyone's: removes what was written and raises on all of them."""
    if all_sum(torch.tensor(int(problem is not None), device=device())).item() == 0:
        return
    reasons = [reason for reason in gather_objects(str(problem) if problem else None) if reason]
    if is_main():
        shutil.rmtree(leftovers, ignore_errors=True)
    raise MghError(f"the checkpoint could not be written: {reasons[0]}")
