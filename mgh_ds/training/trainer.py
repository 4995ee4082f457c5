"""The training loop: plan → micro-batches → step → metrics → checkpoint, the same on one rank or a
thousand."""

import copy
import dataclasses
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.curriculum import TrainingPlan
from mgh_ds.distributed.group import all_sum, device, is_main, on_main, rank, world_size
from mgh_ds.distributed.signals import StopRequest
from mgh_ds.losses import make_loss
from mgh_ds.losses.gather import Exchange
from mgh_ds.model.embedder import build_model
from mgh_ds.records.mixture import Mixture
from mgh_ds.records.store import Store, open_or_convert
from mgh_ds.training import checkpoint
from mgh_ds.training.bad_steps import BadSteps
from mgh_ds.training.checkpoint import CheckpointWriter
from mgh_ds.training.config import RunConfig
from mgh_ds.training.engine import make_engine
from mgh_ds.training.evaluations import Evaluations, Scorer
from mgh_ds.training.objective import NotFiniteError, all_ids
from mgh_ds.training.prefetch import Prefetcher, shards_folder
from mgh_ds.training.run_folder import RunFolder, device_name, versions
from mgh_ds.training.state import collect, restore
from mgh_ds.training.step import StepResult, train_step

# What may change between a run and its continuation: it bears neither on the batches nor on the weights.
FREE_SECTIONS = ("name", "folder", "evaluation", "accept_changes")
FREE_TRAINING_KEYS = (
    "checkpoint_every",
    "keep_checkpoints",
    "bad_steps_limit",
    "silence_limit_s",
    "deepspeed",
    "gather",  # how embeddings travel, not what is computed
)


class Trainer:
    """A run: its model, its data and where it stands. `scorer` evaluates it where the recipe says so."""

    def __init__(self, config: RunConfig, folder: RunFolder, scorer: Scorer | None = None) -> None:
        self.config, self.folder = config, folder
        on_main(folder.hold)
        training = config.training
        self.store = Mixture([self._open(path) for path in config.data.train])
        self.held_out = self._open(config.data.held_out) if config.data.held_out else None
        self.plan = TrainingPlan(self.store.index(), config.curriculum, **config.plan_arguments())
        # What does not fit is said now, before a model is loaded or a file of an earlier run is touched.
        self.plan.local_batch(0, world_size(), rank())
        self.shards = shards_folder(config.data.shards, folder.path)
        self.checkpoint = on_main(self._newest_checkpoint)
        if self.checkpoint:
            checkpoint.check(*self.checkpoint, self._identity(), config.accept_changes)
        self.evaluations = Evaluations(config, folder, self.held_out, scorer)
        self.model, self.tokenizer = build_model(config.model, seed=config.seed)
        self.engine = make_engine(self.model, config.model, training)
        self.loss = make_loss(training.loss, Exchange(training.gather, training.negative_groups))
        self.writer = CheckpointWriter(folder.checkpoints, training.keep_checkpoints, folder.sync)
        self._copy_seconds: dict[int, float] = {}

    def train(self, stop: StopRequest) -> bool:
        """Trains from the newest checkpoint, or from the start, to the last step, or until evaluations get no
        better; or until a rank is asked to stop: then the step is finished and saved, and the answer is
        False."""
        step = saved = self._resume()
        if is_main():
            print("\n".join(self.describe_plan()))
        started = datetime.now(UTC)
        bad = BadSteps(self.config.training.bad_steps_limit, self.folder)
        with (
            Prefetcher(
                self.store, self.plan, self.tokenizer, folder=self.shards, first_step=step
            ) as prefetcher,
            tqdm(
                total=self.plan.steps, initial=step, unit="step", disable=not is_main(), dynamic_ncols=True
            ) as bar,
        ):
            while not self.asked_to_stop(stop):
                if self.evaluations.due(step):
                    saved = self._evaluate(step, saved)
                    continue
                if self._ended(step):
                    break
                line = self._step(step, prefetcher, bad)
                step += 1
                bar.update()
                if is_main():
                    bar.set_postfix_str(line)
                if step % self.config.training.checkpoint_every == 0:
                    self._save(step)
                    saved = step
        if saved < step:
            self._save(step)
        self.writer.wait()
        if self.asked_to_stop(stop) or not self._ended(step):
            if is_main():
                print(f"stopped as asked: {step} of {self.plan.steps} steps are done and saved")
            return False
        if is_main():
            self.writer.tidy()
        if step < self.plan.steps:
            self.evaluations.conclude(self.model, self.tokenizer)
            if is_main():
                print(f"ended early, after {step} of {self.plan.steps} steps: {self.evaluations.verdict}")
        on_main(lambda: self._write_summary(started, step))
        return True

    def _ended(self, step: int) -> bool:
        """Whether there is nothing left to train."""
        return step == self.plan.steps or self.evaluations.exhausted

    def _evaluate(self, step: int, saved: int) -> int:
        """Evaluates the run after `step` steps; returns the step last saved, which is this one if it is the
        best so far."""
        # A tokenizer of its own: the prefetching thread is at work with the other, which is not made for two.
        self.evaluations.evaluate(step, self.model, copy.deepcopy(self.tokenizer))
        if self.evaluations.best == step:
            if saved < step:
                self._save(step)
            # Not before: a run that is killed until this one is visible goes back to where another was best.
            self.writer.best = saved = step
        return saved

    def _step(self, step: int, prefetcher: Prefetcher, bad: BadSteps) -> str:
        """One step and its lines in metrics and ledger; returns what the progress bar shows."""
        stage, begin = self.plan.stage(step), time.perf_counter()
        batches, waited = prefetcher.take(step)
        batches = [batch.to(device()) for batch in batches]  # all that the step needs, once
        rate = self.engine.get_lr()[0]
        problem: NotFiniteError | None = None
        try:
            result = train_step(self.engine, batches, self.loss)
        except NotFiniteError as error:
            problem = error
            self.engine.lr_scheduler.step()  # the rate is a function of the step, applied or not
        ids = all_ids(batches)
        number, seconds = step + 1, time.perf_counter() - begin
        if is_main():
            self.folder.ledger.append(ledger_entry(number, stage.index, ids, problem))
        bad.count(number, problem)
        if problem is not None:
            entry = {"kind": "skipped", "step": number, "reason": problem.what, "ids": problem.ids}
            if is_main():
                self.folder.metrics.append(entry)
            return f"{stage.name}: skipped, {problem.what}"
        entry = step_entry(number, stage.index, stage.name, result, seconds)
        entry |= {"lr": rate, "grad_norm": float(self.engine.get_global_grad_norm()), "wait_seconds": waited}
        if is_main():
            self.folder.metrics.append(entry)
        return f"{stage.name}, loss {result.loss:.3f}, {entry['tokens_per_s']:,.0f} tokens/s"

    def asked_to_stop(self, stop: StopRequest) -> bool:
        """Whether any rank was; raises MghError on all of them when a checkpoint could not be written."""
        for written in self.writer.take_written():
            copy_seconds = self._copy_seconds.pop(written.step)
            entry = {"kind": "checkpoint", **dataclasses.asdict(written), "copy_seconds": copy_seconds}
            self.folder.metrics.append(entry)
        flags = torch.tensor([int(stop.asked), int(self.writer.problem is not None)], device=device())
        asked, failed = all_sum(flags).tolist()
        if failed:
            raise MghError(on_main(lambda: self.writer.problem) or "")
        return bool(asked)

    def describe_plan(self) -> list[str]:
        """A line a stage: its steps, its records, and what becomes of those that lack its levels."""
        lines = []
        for part in self.plan.coverage():
            fallback = self.config.curriculum.missing_level
            line = f"{part.name}: {part.steps} steps, {part.eligible} records, {part.epochs:.1f} epochs"
            if part.lacking:
                line += f"; {part.lacking} records lack it (missing_level: {fallback})"
            lines.append(line)
        return lines

    def _newest_checkpoint(self) -> tuple[Path, checkpoint.Manifest] | None:
        checkpoint.remove_leftovers(self.folder.checkpoints)
        return checkpoint.newest(self.folder.checkpoints)

    def _open(self, path: str) -> Store:
        """Opens a store that rank 0 alone has converted, if it was a file, and checked."""

        def prepare() -> Path:
            store = open_or_convert(path, self.folder.store_cache)
            store.verify()
            return store.path

        return Store.open(on_main(prepare))

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint and the run that goes on from it must have in common."""
        config = self.config.model_dump()
        for name in FREE_SECTIONS:
            del config[name]
        for name in FREE_TRAINING_KEYS:
            del config["training"][name]
        held_out = self.held_out.manifest_hash if self.held_out else None  # else "before" and "after" differ
        config["data"] = {"manifest": self.store.manifest_hash, "held_out": held_out}
        return {"config": config, "plan": self.plan.fingerprint(self.store.manifest_hash)}

    def _resume(self) -> int:
        step = 0
        if self.checkpoint:
            path, manifest = self.checkpoint
            step = int(manifest["step"])
            restore(self.engine, lambda: checkpoint.load(path, manifest), step)
        on_main(lambda: self.folder.start(self.config, step if self.checkpoint else None))
        self.evaluations.resume()
        self.writer.best = self.evaluations.best
        if self.checkpoint and is_main():
            print(f"going on from {self.checkpoint[0]}: {step} of {self.plan.steps} steps are done")
        return step

    def _save(self, step: int) -> None:
        """Copies the state, which the ranks wait for, and has it written, which they do not."""
        begin = time.perf_counter()
        state = collect(self.engine)
        if state is not None:
            self._copy_seconds[step] = time.perf_counter() - begin
            self.writer.begin(state, step, self._identity())

    def _write_summary(self, started: datetime, step: int) -> None:
        steps = [entry for entry in self.folder.metrics.entries() if entry["kind"] == "step"]
        if not steps:
            raise MghError(
                f"{self.folder.metrics.path} has lost the run's steps: remove the run and train again"
            )
        seconds = sum(entry["seconds"] for entry in steps)
        parameters = list(self.model.parameters())
        summary = {
            "name": self.config.name,
            "model": self.config.model.name_or_path,
            "world_size": world_size(),
            "device": device_name(),
            "versions": versions(),
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "train_seconds": seconds,
            "steps": step,
            "global_batch": self.plan.global_batch,
            "parameters": {
                "total": sum(parameter.numel() for parameter in parameters),
                "trainable": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            },
            "texts_per_s": sum(entry["texts_per_s"] * entry["seconds"] for entry in steps) / seconds,
            "tokens_per_s": sum(entry["tokens_per_s"] * entry["seconds"] for entry in steps) / seconds,
            "wait_share": sum(entry["wait_seconds"] for entry in steps) / seconds,
        }
        files.write_json(self.folder.path / "run.json", summary)


def ledger_entry(step: int, stage: int, ids: Iterable[str], problem: NotFiniteError | None) -> dict[str, Any]:
    """A step's line in the ledger, the same for every number of ranks: its records in alphabetical order, and
    why it changed no weight, if it did not."""
    entry: dict[str, Any] = {"step": step, "stage": stage, "ids": sorted(name for name in ids if name)}
    return entry | ({"skipped": problem.what} if problem else {})


def step_entry(step: int, stage: int, stage_name: str, result: StepResult, seconds: float) -> dict[str, Any]:
    """One line of the metrics."""
    return {
        "kind": "step",
        "step": step,
        "stage": stage,
        "stage_name": stage_name,
        "loss": result.loss,
        "records": result.records,
        "levels": result.levels,
        "statistics": result.statistics,
        "seconds": seconds,
        "texts_per_s": result.texts / seconds,
        "tokens_per_s": result.tokens / seconds,
    }
