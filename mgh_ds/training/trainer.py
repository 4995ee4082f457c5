"""The training loop: plan → micro-batches → step → metrics → checkpoint, the same on one rank or a
thousand."""

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.curriculum.plan import EMPTY
from mgh_ds.curriculum.sources import what_is_said
from mgh_ds.curriculum.stages import Stage
from mgh_ds.distributed.group import (
    all_gather,
    device,
    is_main,
    on_each_machine,
    on_main,
    rank,
    world_size,
)
from mgh_ds.distributed.signals import StopRequest
from mgh_ds.distributed.sums import Sums
from mgh_ds.model.config import ModelConfig
from mgh_ds.model.fingerprint import Fingerprint, agreed
from mgh_ds.records.mixture import Mixture
from mgh_ds.records.store import Store, open_or_convert
from mgh_ds.training import checkpoint
from mgh_ds.training.adapters import adapter_lines, base_fingerprint, build_run_model
from mgh_ds.training.bad_steps import BadSteps
from mgh_ds.training.checkpoint import CheckpointWriter
from mgh_ds.training.config import RunConfig
from mgh_ds.training.data import make_plan, open_training_data
from mgh_ds.training.engine import make_engine
from mgh_ds.training.evaluations import Evaluations, Scorer
from mgh_ds.training.interpolation import Interpolation
from mgh_ds.training.ledger import Ledger, halves, hashed, records_digest, whole
from mgh_ds.training.loggers.opening import Loggers, open_loggers
from mgh_ds.training.needs import check_dims, check_recipe
from mgh_ds.training.objectives import ContrastiveSettings, make_objective
from mgh_ds.training.prefetch import Prefetcher, shards_folder
from mgh_ds.training.progress import TimeLeft, progress, times_due
from mgh_ds.training.run_folder import RunFolder, device_name, versions
from mgh_ds.training.state import collect, restore
from mgh_ds.training.step import StepResult
from mgh_ds.training.throughput import Throughput, totals

BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"  # tqdm's own estimate knows of steps alone
# What may change between a run and its continuation: it bears neither on the batches nor on the weights.
FREE_SECTIONS = ("name", "folder", "logging", "evaluation", "accept_changes")
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
        self.objective = make_objective(config)  # refuses a model before data are converted for it
        cache, held_out = folder.store_cache, config.data.held_out
        self.store = Mixture([_opened(open_training_data, config, path, cache) for path in config.data.paths])
        self.held_out = _opened(open_or_convert, held_out, cache) if held_out else None
        self.plan = make_plan(config, self.store)
        # What does not fit is said now, before a model is loaded or a file of an earlier run is touched.
        self.remarks = check_recipe(config, self.plan)
        self.plan.local_batch(0, world_size(), rank())
        self.shards = shards_folder(config.data.shards, folder.path)
        self.checkpoint = on_main(self._newest_checkpoint)
        self.evaluations = Evaluations(config, folder, self.held_out, scorer)
        self.backbone = backbone_of_all(config.model)
        if self.checkpoint:
            checkpoint.check(*self.checkpoint, self._identity(), config.accept_changes)
            if is_main() and (words := checkpoint.lacks_backbone(*self.checkpoint)):
                print(words)
            self.evaluations.check(self.checkpoint[1]["step"])
        self.model, self.tokenizer = build_run_model(config.model, self.backbone, seed=config.seed)
        self.interpolation = Interpolation(self.model, config.evaluation.interpolate)
        if isinstance(training.objective, ContrastiveSettings):
            check_dims(config.stage_losses(), self.model.dim)
        # The prefetching thread is at work with the other, which is not made for two.
        self.own_tokenizer = copy.deepcopy(self.tokenizer)
        self.engine = make_engine(self.model, config.model, training)
        self.throughput, self.time_left = Throughput.of(self.model, config.model), TimeLeft()
        self.loggers = Loggers()  # rank 0 opens them when it is known where the run goes on
        self.ledger = Ledger(folder.ledger, self.store, self.plan)
        self.writer = CheckpointWriter(folder.checkpoints, training.keep_checkpoints, self._sync)
        self._copy_seconds: dict[int, float] = {}

    def train(self, stop: StopRequest) -> bool:
        """Trains from the newest checkpoint, or from the start, to the last step, or until evaluations get no
        better; or until a rank is asked to stop: then the step is finished and saved, and the answer is
        False."""
        step = self._resume()
        if is_main():
            print("\n".join([*adapter_lines(self.config.model), *self.describe_plan()]))
            self.loggers = open_loggers(self.config, self.folder.path, step if self.checkpoint else -1)
        with self.loggers:
            return self._train(step, stop)

    def _train(self, step: int, stop: StopRequest) -> bool:
        saved = step
        started = datetime.now(UTC)
        bad = BadSteps(self.config.training.bad_steps_limit, self.folder)
        with (
            Prefetcher(
                self.store,
                self.plan,
                self.tokenizer,
                folder=self.shards,
                first_step=step,
                make=self.objective.make_batch,
            ) as prefetcher,
            self.ledger,
            tqdm(
                total=self.plan.steps,
                initial=step,
                disable=not is_main(),
                dynamic_ncols=True,
                bar_format=BAR,
            ) as bar,
        ):
            asked = self.asked_to_stop(stop)
            while not asked:
                if self.evaluations.due(step):
                    asked = self.asked_to_stop(stop)  # a step tells what was asked before it
                    if not asked:
                        saved = self._evaluate(step, saved)
                        asked = self.asked_to_stop(stop)
                    continue
                if self._ended(step):
                    prefetcher.end()
                    break
                line, asked = self._step(step, prefetcher, bad, stop)
                step += 1
                bar.update()
                if is_main():
                    bar.set_postfix_str(line)
                if step % self.config.training.checkpoint_every == 0:
                    self._save(step)
                    saved = step
            self.ledger.wait()
        # Before the first step there is nothing to save but the evaluation, which goes with a checkpoint.
        if saved < step or (step == 0 and self.checkpoint is None and self.evaluations.lines):
            self._save(step)
        self.writer.wait()
        if self.asked_to_stop(stop) or not self._ended(step):
            if is_main():
                print(f"stopped as asked: {step} of {self.plan.steps} steps are done and saved")
            return False
        if is_main():
            self.writer.tidy()
        if step < self.plan.steps:
            with self.interpolation.shown(self.engine):
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
        origin = {
            "weights": {
                checkpoint.BACKBONE: self.backbone,
                "step": step,
                **({} if self.interpolation.share == 1 else {"interpolate": self.interpolation.share}),
            },
            "settings": self.config.model.model_dump(),
        }
        with self.interpolation.shown(self.engine):
            self.evaluations.evaluate(step, self.model, self.own_tokenizer, origin, self.log)
        if self.evaluations.best == step:
            if saved < step:
                self._save(step)
            # Not before: a run that is killed until this one is visible goes back to where another was best.
            self.writer.best = saved = step
        return saved

    def _step(self, step: int, prefetcher: Prefetcher, bad: BadSteps, stop: StopRequest) -> tuple[str, bool]:
        """One step and its lines in metrics and ledger; returns what the progress bar shows, and whether a
        rank was asked to stop."""
        stage, begin = self.plan.stage(step), time.perf_counter()
        batches, waited = prefetcher.take(step)
        low, high = halves(records_digest(hashed(name for batch in batches for name in batch.ids), step))
        batches = [batch.to(device()) for batch in batches]  # all that the step needs, once
        rate = self.engine.get_lr()[0]
        notes = {"digest_low": low, "digest_high": high, "wait_seconds": waited}
        result = self.objective.train_step(
            self.engine, batches, self.plan.records(step), stage, lambda: notes | self._flags(stop)
        )
        seconds = time.perf_counter() - begin
        self._note_written()
        self.ledger.check(step, whole([result.notes["digest_low"], result.notes["digest_high"]]))
        if is_main():
            self.ledger.write(step, result.problem)
        if result.problem is None:
            bad.clear()
            waited = result.notes["wait_seconds"] / world_size()
            entry = step_entry(step + 1, stage, result, rate, seconds)
            entry |= self.throughput.figures(result.size, seconds, waited)
            self.log(entry)
            self.time_left.step(seconds)
            return progress(stage.name, entry, self._left(step + 1)), self._asked(result.notes)
        self.engine.lr_scheduler.step()  # the rate is a function of the step, applied or not
        entry = {
            "kind": "skipped",
            "step": step + 1,
            "reason": result.problem,
            "ids": self._at_fault(step, result),
        }
        self.log(entry)
        bad.count(entry)
        return f"{stage.name}: skipped, {result.problem}", self._asked(result.notes)

    def _at_fault(self, step: int, result: StepResult) -> list[str]:
        """The records that a skipped step may be skipped for: those of all ranks whose embeddings are no
        numbers, or if there are none the whole batch."""
        rows = self.plan.local_batch(step, world_size(), rank()).ravel()
        rows[result.finite.cpu().numpy()] = EMPTY
        found = all_gather(torch.from_numpy(rows).to(device())).cpu().numpy()
        return self.ledger.ids(found if (found != EMPTY).any() else self.plan.batch(step))

    def _flags(self, stop: StopRequest) -> dict[str, float]:
        """What this rank has to tell the others."""
        return {"asked_to_stop": float(stop.asked), "not_written": float(self.writer.problem is not None)}

    def _asked(self, flags: Mapping[str, float]) -> bool:
        """Whether any rank was asked to stop, by the sum of all ranks' flags; raises MghError on all of them
        when a checkpoint could not be written."""
        if flags["not_written"]:
            raise MghError(on_main(lambda: self.writer.problem) or "")
        return bool(flags["asked_to_stop"])

    def asked_to_stop(self, stop: StopRequest) -> bool:
        """As `_asked`, between steps; all ranks must call it."""
        self._note_written()
        return self._asked({name: flag.item() for name, flag in Sums(self._flags(stop)).read().items()})

    def _note_written(self) -> None:
        for written in self.writer.take_written():
            copy_seconds = self._copy_seconds.pop(written.step)
            entry = {"kind": "checkpoint", **dataclasses.asdict(written), "copy_seconds": copy_seconds}
            self.log(entry)

    def log(self, entry: dict[str, Any]) -> None:
        """Adds a line to `metrics.jsonl`, of which the loggers are told too; rank 0 does."""
        if is_main():
            self.folder.metrics.append(entry)
            self.loggers.log(entry)

    def _left(self, step: int) -> float | None:
        """Seconds that the run still takes after so many steps."""
        last, evaluations = self.plan.steps, self.evaluations
        return self.time_left.seconds(
            steps=last - step,
            checkpoints=times_due(step, last, self.config.training.checkpoint_every),
            evaluations=evaluations.left(step),
            evaluation_seconds=evaluations.mean_seconds,
        )

    def describe_plan(self) -> list[str]:
        """A line a stage and source: its steps, its records, and what becomes of those that lack its levels.
        Then a line for each source of a mixture, and for records that a part of the loss is blind to."""
        lines = []
        for part in self.plan.coverage():
            fallback = self.config.curriculum.missing_level
            line = f"{part.name}: {part.steps} steps, {part.eligible} records, {part.epochs:.1f} epochs"
            if part.lacking and part.stage.negatives:
                line += f"; {part.lacking} records lack it (missing_level: {fallback})"
            lines.append(line)
        return lines + [use.words for use in self.plan.source_uses()] + self.remarks

    def _newest_checkpoint(self) -> tuple[Path, checkpoint.Manifest] | None:
        checkpoint.remove_leftovers(self.folder.checkpoints)
        return checkpoint.newest(self.folder.checkpoints)

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint and the run that goes on from it must have in common."""
        config = self.config.model_dump()
        for name in FREE_SECTIONS:
            del config[name]
        for name in FREE_TRAINING_KEYS:
            del config["training"][name]
        if config["training"]["guide"] is None:
            del config["training"]["guide"]  # as in checkpoints of before there were any
        del config["model"]["adapters"]  # their weights stand in the backbone's fingerprint
        held_out = self.held_out.manifest_hash if self.held_out else None  # else "before" and "after" differ
        config["data"] = {"manifest": self.store.manifest_hash, "held_out": held_out}
        said = what_is_said(self.config.data.train)
        if said is not None:  # else as in checkpoints of before there was anything to say
            config["data"]["train"] = said
        return {
            "config": config,
            "plan": self.plan.fingerprint(self.store.manifest_hash),
            checkpoint.BACKBONE: self.backbone,
            **self.objective.identity,
        }

    def _resume(self) -> int:
        step = 0
        if self.checkpoint:
            path, manifest = self.checkpoint
            step = int(manifest["step"])
            restore(self.engine, lambda: checkpoint.load(path, manifest), step)
        on_main(lambda: self.folder.start(self.config, self.backbone, step if self.checkpoint else None))
        self.evaluations.resume()
        self.writer.best = self.evaluations.best
        if self.checkpoint and is_main():
            print(f"going on from {self.checkpoint[0]}: {step} of {self.plan.steps} steps are done")
        return step

    def _sync(self) -> None:
        """Before a checkpoint becomes visible: what is logged up to its step is on the disk."""
        self.ledger.wait()
        self.folder.sync()

    def _save(self, step: int) -> None:
        """Puts the state together, which the ranks wait for, and has it written, which they need not wait for
        unless it is larger than what the writer takes at once."""
        begin = time.perf_counter()
        state = collect(self.engine)
        if is_main():
            self.writer.begin(state, step, self._identity())
            self._copy_seconds[step] = time.perf_counter() - begin
        else:
            for _ in state.tensors():
                pass  # each is put together by all
        self.time_left.copy(time.perf_counter() - begin)

    def _write_summary(self, started: datetime, step: int) -> None:
        lines = list(self.folder.metrics.entries())
        steps = [line for line in lines if line["kind"] == "step"]
        if not steps:
            raise MghError(
                f"{self.folder.metrics.path} has lost the run's steps: remove the run and train again"
            )
        seconds = sum(line["seconds"] for line in steps)
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
            "metric": self.config.evaluation.metric,
            "best_step": self.evaluations.best,
            "interpolate": self.interpolation.share,
            "global_batch": self.plan.global_batch,
            "parameters": {
                "total": sum(parameter.numel() for parameter in parameters),
                "trainable": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            },
            **totals(lines),
        }
        files.write_json(self.folder.path / "run.json", summary)


def _opened(open_data: Callable[..., Store], *arguments: Any) -> Store:
    """Opens a store that rank 0 alone has converted, if need be, and checked."""

    def prepare() -> Path:
        store = open_data(*arguments)
        store.verify()
        return store.path

    return Store.open(on_main(prepare))


def backbone_of_all(config: ModelConfig) -> Fingerprint:
    """The fingerprint of the backbone with its adapters. Raises MghError on every rank if another machine
    than rank 0's would load other files under the same name."""
    found = on_each_machine(lambda: base_fingerprint(config))
    return agreed(found, f"model.name_or_path {config.name_or_path}")


def step_entry(step: int, stage: Stage, result: StepResult, rate: float, seconds: float) -> dict[str, Any]:
    """One line of the metrics but for what `Throughput` adds; steps count from 1 there."""
    return {
        "kind": "step",
        "step": step,
        "stage": stage.index,
        "stage_name": stage.name,
        "loss": result.loss,
        "records": result.records,
        "levels": result.levels,
        "statistics": result.statistics,
        "lr": rate,
        "grad_norm": result.grad_norm,
        "seconds": seconds,
    }
