"""What reading the data costs in training: resident memory over the steps, and the time spent waiting.

    python -m benchmarks.loader                 # 1,000,000 records; writes results/loader-cpu.json and .md
    python -m benchmarks.loader --store FOLDER  # keeps the store there, and uses it the next time

Memory: two ranks go through the three stages of a curriculum as training does, but for the model: they read,
choose negatives and tokenise. Beside it, for contrast, one process reads the same steps through the memory
map and never lets go of a page. Waiting: the same with MiniLM and LoRA as in `configs/demo.yaml`, trained.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import environment
from benchmarks.kernel import RESULTS
from mgh_ds.common import files
from mgh_ds.common.config import load_config
from mgh_ds.common.score_tables import markdown_table
from mgh_ds.curriculum import Loader, TrainingPlan
from mgh_ds.distributed.group import free_port, process_group, rank
from mgh_ds.losses import make_loss
from mgh_ds.losses.gather import Exchange
from mgh_ds.model.embedder import build_model
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.model.weights import resolve_model
from mgh_ds.records import store as store_module
from mgh_ds.records.schema import Negative, Record, Task
from mgh_ds.records.store import Store, StoreWriter, is_store
from mgh_ds.training import prefetch as prefetch_module
from mgh_ds.training.config import RunConfig
from mgh_ds.training.engine import make_engine
from mgh_ds.training.prefetch import Prefetcher
from mgh_ds.training.step import train_step

RANKS = 2
RECIPE = "configs/demo.yaml"
EVERY = 10  # steps between two readings of the memory
WARM_UP = 0.2  # of the steps: libraries, allocators and caches settle first
MEMORY = ("VmRSS", "RssAnon", "RssFile")
PACKAGES = ("pyarrow", "tokenizers", "deepspeed")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory(prefix="loader.", dir=options.folder) as name:
        folder = Path(name)
        store = options.store or folder / "store"
        found: dict[str, Any] = {}
        if not is_store(store):
            begin = time.perf_counter()
            write_store(store, options.records)
            found["store_write_s"] = time.perf_counter() - begin
        found["records"] = len(Store.open(store))
        found["store_bytes"] = sum(part.bytes for part in Store.open(store).manifest.parts)
        found["memory"] = run(go_through, store, folder / "memory", options.memory_steps)
        found["memory_map"] = run(go_through_map, store, folder / "map", options.memory_steps, ranks=1)
        found["waiting"] = run(train, store, folder / "waiting", options.steps)
    publish(options.output / "loader-cpu", found)
    return 0


def write_store(path: Path, records: int) -> None:
    """Records of made-up words. Lengths are log-normal, so that a few are many times the median's."""
    random = np.random.default_rng(0)
    letters = "".join(chr(97 + number) for number in range(26)) + "     "
    words = "".join(random.choice(list(letters), 2**20))
    tasks = [
        Task(kind="asymmetric", subtype="short-long", instruction=f"Answer a question of kind {kind}")
        for kind in range(40)
    ]
    with StoreWriter(path) as writer:
        for number in range(records):
            lengths = np.minimum(random.lognormal((4.0, 5.2, 4.8, 4.8, 4.8, 4.8), 0.6), 4000).astype(int)
            starts = random.integers(0, len(words) - 4000, 6)
            texts = [
                f"{number} {place} {words[start : start + length]}".strip()
                for place, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True))
            ]
            # Not validated here, which would take longer than all the rest; reading does that.
            writer.add(
                Record.model_construct(
                    id=f"made-up-{number}",
                    task=tasks[number % len(tasks)],
                    language="en",
                    query=texts[0],
                    positive=texts[1],
                    negatives=[
                        Negative.model_construct(text=text, level=level)
                        for level, text in enumerate(texts[2:], start=1)
                    ],
                    source={"dataset": "made-up"},
                )
            )


def run(work: Callable[..., Any], store: Path, folder: Path, steps: int, ranks: int = RANKS) -> Any:
    """What `work(store, folder, steps)` finds on each of some ranks, in processes of their own."""
    folder.mkdir()
    torch.multiprocessing.spawn(_rank, (ranks, free_port(), work, store, folder, steps), nprocs=ranks)
    return [files.read_json(folder / f"{number}.json") for number in range(ranks)]


def _rank(
    number: int, ranks: int, port: int, work: Callable[..., Any], store: Path, folder: Path, steps: int
) -> None:
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(ranks)}
    os.environ |= {"LOCAL_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with process_group():
        files.write_json(folder / f"{number}.json", work(Store.open(store), folder, steps))


def _recipe(steps: int, **training: int) -> RunConfig:
    settings = {"steps": steps, "gradient_clipping": 1} | training
    changes = [f"--training.{key}={value}" for key, value in settings.items()]
    return load_config(RunConfig, ["--config", RECIPE, *changes])


def _plan(store: Store, config: RunConfig) -> TrainingPlan:
    sizes = config.training
    batches: dict[str, Any] = {"global_batch": sizes.global_batch, "micro_batch": sizes.micro_batch}
    return TrainingPlan(store.index(), config.curriculum, steps=sizes.steps, **batches, seed=config.seed)


def _tokenizer(config: RunConfig) -> Tokenizer:
    model = config.model
    return Tokenizer.from_pretrained(
        resolve_model(model.name_or_path),
        max_length=model.max_length,
        use_instructions=model.use_instructions,
        padding_free=model.padding_free,
    )


def go_through(store: Store, folder: Path, steps: int) -> dict[str, Any]:
    """Takes every step from a prefetcher, and reads how much memory is used; times the writing of shards."""
    config = _recipe(steps, global_batch=256, micro_batch=64)
    plan, tokenizer = _plan(store, config), _tokenizer(config)
    shards, original = [], prefetch_module.prepare

    def timed(store: Any, local: Any, *arguments: Any) -> Any:
        begin = time.perf_counter()
        ready = original(store, local, *arguments)
        path = folder / "shards" / f"{local.name}.arrow"
        written = {"records": ready.counted.records, "bytes": path.stat().st_size}
        shards.append(written | {"seconds": time.perf_counter() - begin})
        return ready

    prefetch_module.prepare = timed  # type: ignore[assignment]
    with Prefetcher(store, plan, tokenizer, folder=folder / "shards", first_step=0) as prefetcher:
        memory = list(_watch(steps, prefetcher.take))
    return {"memory": memory, "shards": shards}


def go_through_map(store: Store, _folder: Path, steps: int) -> dict[str, Any]:
    """The same steps of rank 0 of 2, read from the map as it is without letting go of pages."""
    store_module.MappedPart.release = lambda self: None  # type: ignore[method-assign]  # noqa: ARG005
    plan = _plan(store, _recipe(steps, global_batch=256, micro_batch=64))
    loader = Loader(store, plan)
    return {"memory": list(_watch(steps, lambda step: loader.micro_batches(step, RANKS, 0)))}


def _watch(steps: int, take: Callable[[int], Any]) -> Iterator[dict[str, int]]:
    for step in range(steps):
        take(step)
        if step % EVERY == 0 or step == steps - 1:
            status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            found = dict(line.split(":", 1) for line in status)
            yield {"step": step} | {name: int(found[name].split()[0]) // 1024 for name in MEMORY}


def train(store: Store, folder: Path, steps: int) -> dict[str, Any]:
    """Trains as the demo does, and adds up what the steps waited for."""
    config = _recipe(steps)
    plan = _plan(store, config)
    model, tokenizer = build_model(config.model, seed=config.seed)
    engine = make_engine(model, config.model, config.training)
    loss = make_loss(config.training.loss, Exchange())
    seconds, waited = [], []
    with Prefetcher(store, plan, tokenizer, folder=folder / "shards", first_step=0) as prefetcher:
        for step in range(steps):
            begin = time.perf_counter()
            batches, wait = prefetcher.take(step)
            train_step(engine, batches, loss, plan.records(step))
            seconds.append(time.perf_counter() - begin)
            waited.append(wait)
            if rank() == 0 and step % EVERY == 0:
                print(f"step {step}: {seconds[-1]:.2f} s, waited {wait:.4f} s", flush=True)
    boundaries = [stage.first_step for stage in plan.stages]
    return {
        "steps": steps,
        "seconds": sum(seconds),
        "waited_s": sum(waited),
        "first_step_waited_s": waited[0],
        "boundaries_waited_s": [waited[step] for step in boundaries[1:]],
        "wait_share": sum(waited) / sum(seconds),
        "wait_share_after_first_step": sum(waited[1:]) / sum(seconds[1:]),
    }


def publish(path: Path, found: dict[str, Any]) -> None:
    """Writes the figures, `.json`, and what they say, `.md`."""
    settings = environment.describe(torch.device("cpu"))
    settings |= {name: environment.version(name) for name in PACKAGES}
    content = json.dumps({"environment": settings} | found, indent=1)
    files.write_text(path.with_suffix(".json"), content + "\n")
    about = (
        f"A store of {found['records']:,} records ({found['store_bytes'] / 1e9:.2f} GB). How it is measured, "
        "and how to do it again: [benchmarks/loader.py](../loader.py)."
    )
    memory = (
        "After the first fifth of the steps, in which libraries and allocators settle, and at the end. "
        "`anonymous` is the process's own; `files` are mapped ones, libraries among them."
    )
    text = "\n\n".join(
        [
            "# Loader",
            about,
            markdown_table(("", ""), settings.items(), text_columns=2),
            "## Resident memory, MiB",
            memory,
            markdown_table(("", "then", "at the end", "anonymous", "files"), _memory_rows(found)),
            "## Writing a shard, in the background",
            markdown_table(("rank", "records", "MB", "seconds"), _shard_rows(found)),
            "Each is read back and counted within that time.",
            "## Waiting for data in training",
            markdown_table(
                ("rank", "steps", "s a step", "waited", "after the first step"), _wait_rows(found)
            ),
            "The first step waits until the first shard is written and proved.",
        ]
    )
    files.write_text(path.with_suffix(".md"), text + "\n")
    print(text)


def _memory_rows(found: dict[str, Any]) -> Iterator[Sequence[str]]:
    labels = [(f"shards, rank {number}", one) for number, one in enumerate(found["memory"])]
    for label, one in [*labels, ("memory map, pages kept", found["memory_map"][0])]:
        memory = one["memory"]
        settled, last = memory[int(len(memory) * WARM_UP)], memory[-1]
        change = [f"{settled[name]} → {last[name]}" for name in ("RssAnon", "RssFile")]
        yield label, str(settled["VmRSS"]), str(last["VmRSS"]), *change


def _shard_rows(found: dict[str, Any]) -> Iterator[Sequence[str]]:
    for number, one in enumerate(found["memory"]):
        for shard in one["shards"]:
            megabytes = f"{shard['bytes'] / 1e6:.0f}"
            yield str(number), f"{shard['records']:,}", megabytes, f"{shard['seconds']:.1f}"


def _wait_rows(found: dict[str, Any]) -> Iterator[Sequence[str]]:
    for number, one in enumerate(found["waiting"]):
        shares = [f"{one[name]:.2%}" for name in ("wait_share", "wait_share_after_first_step")]
        yield str(number), str(one["steps"]), f"{one['seconds'] / one['steps']:.2f}", *shares


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--memory-steps", type=int, default=900, help="of 256 records")
    parser.add_argument("--steps", type=int, default=120, help="of real training, of 32 records")
    parser.add_argument("--store", type=Path, help="folder of the store, kept; made if it is not there")
    parser.add_argument("--folder", type=Path, help="for temporary files")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
