"""Training all-MiniLM-L6-v2 beside sentence-transformers 6: the same records, batches and steps, in one run.

    make trainers                                             # the bundled sample
    python -m benchmarks.trainers --records medquad --data-dir DATA

Ours trains with mean pooling, which makes the two models equal, with ATA, and with gradient caching; theirs
with MultipleNegativesRankingLoss, with the same on batches grouped by length, and with the cached loss.
sentence-transformers lives in an environment of its own (requirements/trainers.txt; `make trainers` makes
it). Each contender is a process; they take turns step by step, each round in the other order, and ratios are
formed within a round. Dropout is off, so that losses can be compared: the run fails where they differ, where
tokens do, or where ours did not run the packed attention. Writes `cpu-trainers-<records>.json` and `.md`;
with --lora RANK both train adapters, `cpu-trainers-<records>-lora`.
"""

import argparse
import contextlib
import dataclasses
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import environment
from benchmarks.gate import Runner
from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.common.score_tables import markdown_table
from mgh_ds.curriculum import Loader, TrainingPlan
from mgh_ds.model.weights import MINILM, resolve_model
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store, StoreWriter, open_or_convert
from mgh_ds.training.config import RunConfig

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PEER_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
DATA = ("sample", "snli", "medquad")
UNITS = ("tokens", "texts")
WARM_UP = 1  # steps at the start that do not count
# Of a loss: the same sums in another order, in float32; over the steps the weights drift apart by as much.
FIRST_LOSS_TOLERANCE, LOSS_TOLERANCE = 1e-5, 1e-3


@dataclass(frozen=True)
class Job:
    """What a turn trains; a JSON file to both sides."""

    model: str
    records: str  # a store, for ours
    rows: str  # the texts of the same batches in order, for theirs
    steps: int
    global_batch: int
    threads: int
    negatives: int = 2
    max_length: int = 256
    learning_rate: float = 2e-5
    temperature: float = 0.05
    lora: int | None = None  # rank; None trains all weights
    pooling: Literal["mean", "ata"] = "mean"
    micro_batch: int | None = None  # records of a pass with gradient caching; None: all at once
    by_length: bool = False


class Contender(NamedTuple):
    """`changes` are the job's."""

    name: str
    ours: bool
    changes: dict[str, Any]

    @property
    def same_batches(self) -> bool:
        """Whether its loss must be that of the others with mean pooling, step by step."""
        return not self.changes.keys() & {"pooling", "by_length"}


Steps = list[dict[str, Any]]
"""What a contender reported of each step: `seconds`, `loss`, `texts`, `tokens` and `places`, the tokens that
were computed, padding included; and with how many `threads` of which `torch`."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if not options.peer_python.exists():
        print(f"error: {options.peer_python} does not exist; make trainers makes it", file=sys.stderr)
        return 2
    group = contenders(options.micro_batch)
    with tempfile.TemporaryDirectory(prefix="trainers.", dir=options.folder) as name:
        job = prepare(options, Path(name))
        results = take_turns(group, job, options.peer_python, Path(name))
    check(group, results)
    settings = dataclasses.asdict(job)
    for place in ("model", "records", "rows"):
        del settings[place]
    found = {
        "environment": environment.describe(torch.device("cpu")) | peer_versions(options.peer_python),
        "model": MINILM,
        "records": options.records,
        "settings": settings | {"micro_batch": options.micro_batch, "warm_up": WARM_UP},
        **summary(group, results),
    }
    name = f"cpu-trainers-{options.records}{'' if options.lora is None else '-lora'}"
    publish(options.output / name, found)
    return 0


def contenders(micro_batch: int) -> list[Contender]:
    """Ours and theirs, in the order of the tables."""
    cached = {"micro_batch": micro_batch}
    return [
        Contender("ours, mean", True, {}),
        Contender("ours, ATA", True, {"pooling": "ata"}),
        Contender("ours, mean, cached", True, cached),
        Contender("theirs, plain", False, {}),
        Contender("theirs, plain, by length", False, {"by_length": True}),
        Contender("theirs, cached", False, cached),
    ]


def prepare(options: argparse.Namespace, folder: Path) -> Job:
    """Writes the model without dropout, the records, and the batches that the plan makes of them."""
    chosen = choose(read_records(options.records, options.data_dir, folder), options.negatives)
    count = min(len(chosen) // options.global_batch, options.steps) * options.global_batch
    if not count:
        raise MghError(f"{options.records} has {len(chosen)} records that share no text: too few for a batch")
    with StoreWriter(folder / "records") as writer:
        for record in chosen[:count]:
            writer.add(record)
    job = Job(
        model=str(without_dropout(folder / "model")),
        records=str(folder / "records"),
        rows=str(folder / "rows.json"),
        steps=options.steps,
        global_batch=options.global_batch,
        threads=options.threads,
        negatives=options.negatives,
        max_length=options.max_length,
        lora=options.lora,
    )
    files.write_json(Path(job.rows), list(batch_rows(job)))
    return job


def read_records(name: str, data_dir: Path | None, folder: Path) -> list[Record]:
    """The bundled sample, or records derived from SNLI or MedQuAD as for the ablation."""
    if name == "sample":
        return list(open_or_convert("sample:train", folder / "data"))
    from benchmarks import ablation_data

    if data_dir is None:
        raise MghError(f"--records {name} needs --data-dir, or MGH_DATA_DIR")
    if name == "snli":
        return list(ablation_data.snli_records(ablation_data.snli_scenes(data_dir)))
    return list(ablation_data.medquad_records(*ablation_data.medquad_rows(data_dir)))


def choose(records: Iterable[Record], negatives: int) -> list[Record]:
    """Records with so many negatives that share no text, in an order of their own: ours leaves a query's
    positive out of its negatives wherever it turns up again, theirs does not."""
    seen: set[str] = set()
    chosen = []
    mixed = list(records)
    random.Random(0).shuffle(mixed)
    for record in mixed:
        texts = [record.query, record.positive, *(negative.text for negative in record.negatives)]
        if len(record.negatives) >= negatives and len({*texts}) == len(texts) and seen.isdisjoint(texts):
            seen.update(texts)
            chosen.append(record)
    return chosen


def without_dropout(folder: Path) -> Path:
    """The backbone with the same weights and no dropout, in a new folder."""
    shutil.copytree(resolve_model(MINILM), folder)
    config = files.read_json(folder / "config.json")
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    files.write_json(folder / "config.json", config)
    return folder


def recipe(job: Job, folder: Path) -> RunConfig:
    """The run of our trainer; lengths are mixed in its batches."""
    lora = None if job.lora is None else {"rank": job.lora, "alpha": 2 * job.lora, "dropout": 0.0}
    return RunConfig.model_validate(
        {
            "name": "run",
            "folder": str(folder),
            "model": {
                "name_or_path": job.model,
                "max_length": job.max_length,
                "use_instructions": False,
                "pooling": {"method": job.pooling},
                "lora": lora,
            },
            "data": {"train": [job.records]},
            "curriculum": {
                "stages": "random",
                "negatives": job.negatives,
                "homogeneous": False,
                "length_window": 1,
            },
            "training": {
                "steps": job.steps,
                "global_batch": job.global_batch,
                "micro_batch": job.micro_batch or job.global_batch,
                "learning_rate": job.learning_rate,
                "checkpoint_every": job.steps,
                "loss": {"name": "info_nce", "temperature": job.temperature},
            },
        }
    )


def batch_rows(job: Job) -> Iterator[dict[str, str]]:
    """The texts of each record of each step, in the plan's order."""
    config = recipe(job, Path())
    store = Store.open(Path(job.records))
    loader = Loader(store, TrainingPlan(store.index(), config.curriculum, **config.plan_arguments()))
    names = ["positive", *(f"negative_{number}" for number in range(1, 1 + job.negatives))]
    for step in range(job.steps):
        for batch in loader.micro_batches(step, 1, 0):
            assert batch.document_valid.all(), "the plan left a place of the batch empty"
            documents = iter(batch.documents)
            for query in batch.queries:
                yield {"query": query} | dict(zip(names, documents, strict=False))


def take_turns(group: Sequence[Contender], job: Job, peer_python: Path, folder: Path) -> list[Steps]:
    """The steps of each contender. Raises MghError with its last words if one fails."""
    with contextlib.ExitStack() as stack, tqdm(total=job.steps * len(group), unit="step") as bar:
        runners, results = [], []
        for number, contender in enumerate(group):
            bar.set_postfix_str(contender.name)
            runner = stack.enter_context(start(contender, job, peer_python, folder / str(number)))
            with _named(contender):
                results.append([runner.report()])  # one after another: the first step is nobody's turn yet
            runners.append(runner)
            bar.update()
        for step in range(1, job.steps):
            places = range(len(group))
            for place in places if step % 2 else reversed(places):
                bar.set_postfix_str(group[place].name)
                with _named(group[place]):
                    runners[place].open()
                    results[place].append(runners[place].report())
                bar.update()
        for contender, runner in zip(group, runners, strict=True):
            with _named(contender):
                runner.finish()
    return results


@contextlib.contextmanager
def _named(contender: Contender) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise MghError(f"{contender.name} failed:\n{error}") from None


def start(contender: Contender, job: Job, peer_python: Path, folder: Path) -> Runner:
    """The contender's process, which is on its way to the end of its first step."""
    folder.mkdir()
    files.write_json(folder / "job.json", dataclasses.asdict(dataclasses.replace(job, **contender.changes)))
    python, module = (sys.executable, "trainers_own") if contender.ours else (peer_python, "trainers_peer")
    command = [str(python), "-m", f"benchmarks.{module}", str(folder / "job.json")]
    settings = {"OMP_NUM_THREADS": str(job.threads), "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    settings["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return Runner(command, os.environ | settings, folder / "log")


def check(group: Sequence[Contender], results: Sequence[Steps]) -> None:
    """Raises MghError if the contenders did not do the same work."""
    for key in ("threads", "torch"):
        values = {step[key] for steps in results for step in steps}
        if len(values) > 1:
            raise MghError(f"the contenders ran with different {key}: {values}")
    for contender, steps in zip(group, results, strict=True):
        if any(_sum(steps, unit) != _sum(results[0], unit) for unit in UNITS):
            raise MghError(f"{contender.name} did not train on the texts of {group[0].name}")
        if not contender.same_batches:
            continue
        differences = loss_differences(results[0], steps)
        if differences[0] > FIRST_LOSS_TOLERANCE or max(differences) > LOSS_TOLERANCE:
            raise MghError(
                f"the losses of {contender.name} differ from those of {group[0].name}: by "
                f"{differences[0]:.1e} in the first step, {max(differences):.1e} at most"
            )


def loss_differences(one: Steps, other: Steps) -> list[float]:
    """How far two contenders' losses are apart, step by step, as shares."""
    return [abs(a["loss"] - b["loss"]) / abs(a["loss"]) for a, b in zip(one, other, strict=True)]


def summary(group: Sequence[Contender], results: Sequence[Steps]) -> dict[str, Any]:
    """Rates of each contender and ratios of each pair, ours over theirs, over the rounds; the warm-up is left
    out. `overall` is the whole of them: batches by length differ from round to round."""
    rows = [_row(one, steps, results[0]) for one, steps in zip(group, results, strict=True)]
    by_name = {one.name: steps[WARM_UP:] for one, steps in zip(group, results, strict=True)}
    pairs = itertools.product(*([one.name for one in group if one.ours is ours] for ours in (True, False)))
    ratios = []
    for ours, theirs in pairs:
        ratio: dict[str, Any] = {"ours": ours, "theirs": theirs}
        for unit in UNITS:
            mine, other = by_name[ours], by_name[theirs]
            rates = zip(_rates(mine, unit), _rates(other, unit), strict=True)
            overall = _overall(mine, unit) / _overall(other, unit)
            ratio[f"{unit}_per_s"] = _quartiles([one / two for one, two in rates]) | {"overall": overall}
        ratios.append(ratio)
    return {"rounds": len(results[0]) - WARM_UP, "contenders": rows, "ratios": ratios}


def _row(contender: Contender, steps: Steps, reference: Steps) -> dict[str, Any]:
    counted = steps[WARM_UP:]
    row: dict[str, Any] = {
        "name": contender.name,
        "padding": 1 - _sum(steps, "tokens") / _sum(steps, "places"),
        "first_loss": steps[0]["loss"],
        "last_loss": steps[-1]["loss"],
    }
    if contender.same_batches:
        row["loss_difference"] = max(loss_differences(reference, steps))
    for unit in UNITS:
        overall = {"overall": _overall(counted, unit)}
        row[f"{unit}_per_s"] = _quartiles(_rates(counted, unit)) | overall
    return row


def _rates(steps: Steps, unit: str) -> list[float]:
    return [step[unit] / step["seconds"] for step in steps]


def _overall(steps: Steps, unit: str) -> float:
    return _sum(steps, unit) / _sum(steps, "seconds")


def _sum(steps: Steps, key: str) -> float:
    return sum(step[key] for step in steps)


def _quartiles(values: Sequence[float]) -> dict[str, float]:
    lower, median, upper = np.percentile(values, (25, 50, 75)).tolist()
    return {"median": median, "lower_quartile": lower, "upper_quartile": upper}


def peer_versions(python: Path) -> dict[str, str]:
    """What stands in the other environment where it may differ from ours."""
    code = (
        "import importlib.metadata as m; "
        "print(*(m.version(n) for n in ('sentence-transformers', 'transformers', 'accelerate')))"
    )
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    names = ("sentence-transformers", "their transformers", "their accelerate")
    return dict(zip(names, found, strict=True))


def publish(path: Path, found: dict[str, Any]) -> None:
    """Writes the figures, `.json`, and what they say, `.md`."""
    files.write_json(path.with_suffix(".json"), found)
    settings = found["settings"]
    what = "all weights" if settings["lora"] is None else f"LoRA of rank {settings['lora']}"
    about = (
        f"{found['model']} on `{found['records']}`: {settings['steps']} steps of {settings['global_batch']} "
        f"records with {settings['negatives']} negatives, {what}, {found['rounds']} rounds. What is "
        "compared, and how to do it again: [benchmarks/trainers.py](../trainers.py)."
    )
    text = "\n\n".join(
        [
            "# Trainers",
            about,
            markdown_table(("", ""), found["environment"].items(), text_columns=2),
            "## Rates",
            "Median and quartiles over the rounds; padding counts as no token.",
            markdown_table(
                ("", "tokens/s", "texts/s", "padding", "first loss", "last loss"), _rate_rows(found)
            ),
            "## Ours / theirs, tokens/s",
            "Formed in each round: median and quartiles; last, the ratio of all rounds together.",
            markdown_table(("", *_names(found["ratios"], "theirs")), _ratio_rows(found["ratios"])),
        ]
    )
    files.write_text(path.with_suffix(".md"), text + "\n")
    print(text)


def _rate_rows(found: dict[str, Any]) -> Iterator[list[str]]:
    for row in found["contenders"]:
        rates = [_spread(row[f"{unit}_per_s"], ",.0f") for unit in UNITS]
        losses = [f"{row[name]:.4f}" for name in ("first_loss", "last_loss")]
        yield [row["name"], *rates, f"{row['padding']:.0%}", *losses]


def _ratio_rows(ratios: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    for name in _names(ratios, "ours"):
        figures = [ratio["tokens_per_s"] for ratio in ratios if ratio["ours"] == name]
        yield [name, *(f"{_spread(figure, '.2f')}; {figure['overall']:.2f}" for figure in figures)]


def _names(ratios: Sequence[dict[str, Any]], side: str) -> list[str]:
    return list(dict.fromkeys(ratio[side] for ratio in ratios))


def _spread(figure: dict[str, float], style: str) -> str:
    keys = ("median", "lower_quartile", "upper_quartile")
    median, lower, upper = (format(figure[key], style) for key in keys)
    return f"{median} ({lower} to {upper})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trainers", description=(__doc__ or "").split("\n")[0]
    )
    data_dir = os.environ.get("MGH_DATA_DIR")
    parser.add_argument("--records", choices=DATA, default="sample")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(data_dir) if data_dir else None,
        help="folder of SNLI and MedQuAD (default: MGH_DATA_DIR)",
    )
    parser.add_argument("--steps", type=int, default=5, help="rounds, the first not counted")
    parser.add_argument("--global-batch", type=int, default=32, help="records of a step")
    parser.add_argument("--micro-batch", type=int, default=8, help="records of a pass of the cached ones")
    parser.add_argument("--negatives", type=int, default=2, help="of a record")
    parser.add_argument("--max-length", type=int, default=256, help="tokens")
    parser.add_argument("--lora", type=int, metavar="RANK", help="train adapters only, not all weights")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of a turn")
    parser.add_argument("--peer-python", type=Path, default=PEER_PYTHON, help="with sentence-transformers 6")
    parser.add_argument("--folder", type=Path, help="for temporary files")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MghError as error:
        sys.exit(f"error: {error}")
