"""The training loop: plan → micro-batches → step → metrics → checkpoint, the same on one rank or a
thousand."""

import dataclasses
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mgh_ds import files
from mgh_ds.curriculum import Loader, Plan
from mgh_ds.errors import MghError
from mgh_ds.model.embedder import build_model
from mgh_ds.records.mixture import Mixture
from mgh_ds.records.store import Store, open_or_convert
from mgh_ds.training import checkpoint
from mgh_ds.training.config import RunConfig
from mgh_ds.training.distributed import is_main, on_main, rank, world_size
from mgh_ds.training.engine import make_engine
from mgh_ds.training.inputs import tokenize
from mgh_ds.training.run_folder import RunFolder, device_name, versions
from mgh_ds.training.step import StepResult, train_step

# What may change between a run and its continuation: it bears neither on the batches nor on the weights.
FREE_SECTIONS = ("name", "folder", "evaluation")
FREE_TRAINING_KEYS = ("checkpoint_every", "keep_checkpoints", "deepspeed")


class Trainer:
    """A run: its model, its data and where it stands."""

    def __init__(self, config: RunConfig, folder: RunFolder) -> None:
        self.config, self.folder = config, folder
        training = config.training
        self.store = Mixture([self._open(path) for path in config.data.train])
        self.held_out = self._open(config.data.held_out) if config.data.held_out else None
        self.plan = Plan(
            self.store.index(),
            config.curriculum,
            steps=training.steps,
            global_batch=training.global_batch,
            micro_batch=training.micro_batch,
            seed=config.seed,
        )
        # What does not fit is said now, before a model is loaded or a file of an earlier run is touched.
        self.plan.share(0, world_size(), rank())
        self.checkpoint = on_main(lambda: checkpoint.newest(folder.checkpoints))
        if self.checkpoint:
            checkpoint.check(*self.checkpoint, self._identity())
        self.model, self.tokenizer = build_model(config.model, seed=config.seed)
        self.engine = make_engine(self.model, config.model, training)
        self.loader = Loader(self.store, self.plan)
        on_main(lambda: folder.start(config))

    def train(self) -> None:
        """Trains from the newest checkpoint, or from the start, to the last step."""
        step = self._resume()
        if is_main():
            print("\n".join(self.describe_plan()))
        started = datetime.now(UTC)
        with tqdm(
            total=self.plan.steps, initial=step, unit="step", disable=not is_main(), dynamic_ncols=True
        ) as bar:
            while step < self.plan.steps:
                stage = self.plan.stage(step)
                begin = time.perf_counter()
                batches = self.loader.micro_batches(step, world_size(), rank())
                rate = self.engine.get_lr()[0]
                inputs = [tokenize(batch, self.tokenizer) for batch in batches]
                result = train_step(self.engine, inputs, self.config.training.loss)
                step += 1
                if is_main():
                    entry = step_entry(step, stage.index, stage.name, result, time.perf_counter() - begin)
                    entry |= {"lr": rate, "grad_norm": float(self.engine.get_global_grad_norm())}
                    self.folder.log(entry)
                    bar.set_description(stage.name)
                    bar.set_postfix_str(f"loss {result.loss:.3f}, {entry['tokens_per_s']:,.0f} tokens/s")
                bar.update()
                if step % self.config.training.checkpoint_every == 0 or step == self.plan.steps:
                    self._save(step)
        on_main(lambda: self._write_summary(started))

    def describe_plan(self) -> list[str]:
        """A line a stage: its steps, its records, and what becomes of those that lack its levels."""
        lines = []
        for part in self.plan.coverage():
            stage, fallback = part.stage, self.config.curriculum.missing_level
            line = f"{stage.name}: {stage.steps} steps, {part.eligible} records, {part.epochs:.1f} epochs"
            if part.lacking:
                line += f"; {part.lacking} records lack it (missing_level: {fallback})"
            lines.append(line)
        return lines

    def _open(self, path: str) -> Store:
        """Opens a store that rank 0 alone has converted, if it was a file, and checked."""

        def make_ready() -> Path:
            store = open_or_convert(path, self.folder.store_cache)
            store.verify()
            return store.path

        return Store.open(on_main(make_ready))

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint and the run that goes on from it must have in common."""
        config = dataclasses.asdict(self.config)
        for name in FREE_SECTIONS:
            del config[name]
        for name in FREE_TRAINING_KEYS:
            del config["training"][name]
        held_out = self.held_out.manifest_hash if self.held_out else None  # else "before" and "after" differ
        config["data"] = {"manifest": self.store.manifest_hash, "held_out": held_out}
        return {"config": config, "plan": self.plan.fingerprint(self.store.manifest_hash)}

    def _resume(self) -> int:
        step = checkpoint.load(self.engine, *self.checkpoint) if self.checkpoint else 0
        on_main(lambda: self.folder.rewind(step))
        if self.checkpoint and is_main():
            print(f"going on from {self.checkpoint[0]}: {step} of {self.plan.steps} steps are done")
        return step

    def _save(self, step: int) -> None:
        begin = time.perf_counter()
        keep = self.config.training.keep_checkpoints
        size = checkpoint.save(self.engine, self.folder.checkpoints, step, self._identity(), keep)
        if is_main():
            seconds = time.perf_counter() - begin
            self.folder.log({"kind": "checkpoint", "step": step, "seconds": seconds, "bytes": size})

    def _write_summary(self, started: datetime) -> None:
        steps = [entry for entry in self.folder.metrics() if entry["kind"] == "step"]
        if not steps:
            raise MghError(
                f"{self.folder.metrics_file} has lost the run's steps: remove the run and train again"
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
            "steps": self.plan.steps,
            "global_batch": self.plan.global_batch,
            "parameters": {
                "total": sum(parameter.numel() for parameter in parameters),
                "trainable": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            },
            "texts_per_s": sum(entry["texts_per_s"] * entry["seconds"] for entry in steps) / seconds,
            "tokens_per_s": sum(entry["tokens_per_s"] * entry["seconds"] for entry in steps) / seconds,
        }
        files.write_json(self.folder.path / "run.json", summary)


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
        "masked_share": result.masked_share,
        "seconds": seconds,
        "texts_per_s": result.texts / seconds,
        "tokens_per_s": result.tokens / seconds,
    }
