"""What ATA pooling costs a training step: the step with it against the step with mean pooling.

    python -m benchmarks.step              # the shape of Mistral-7B in bf16, on a GPU
    python -m benchmarks.step --tiny       # the same code in seconds, on a CPU too

One backbone with random weights, made on the device, serves both: LoRA adapters, packed texts of realistic
lengths, activation checkpointing, AdamW on the adapters, InfoNCE within the batch. The two poolings take
turns, each round in the other order, and the difference is taken round by round, so that drift cancels out.
Writes `<device>-step.csv`.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from ata_attention.transformers import register
from torch import nn
from tqdm import tqdm
from transformers import AutoModel, MistralConfig

from benchmarks import environment, table, timing
from benchmarks.agenda import STEP_LONGEST, STEP_TEXTS
from benchmarks.cases import realistic_lengths
from benchmarks.kernel import RESULTS
from benchmarks.shapes import Shapes
from benchmarks.summary import STEP_PERCENT
from mgh_ds.model.batches import PackedBatch
from mgh_ds.model.config import LoraConfig, PoolingConfig, PoolingMethod
from mgh_ds.model.embedder import EmbeddingModel
from mgh_ds.model.pooling import Pooling

METHODS: tuple[PoolingMethod, PoolingMethod] = ("ata", "mean")
TEMPERATURE = 0.02

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Sizes(Shapes):
    """The backbone and the batch; lengths are in tokens."""

    dtype: torch.dtype = torch.bfloat16
    texts: int = STEP_TEXTS
    longest: int = STEP_LONGEST
    seed: int = 0


TINY = Sizes(
    hidden=64,
    layers=2,
    heads=4,
    kv_heads=2,
    intermediate=128,
    vocabulary=100,
    rank=4,
    dtype=torch.float32,
    texts=6,
    longest=40,
)


class StepRow(NamedTuple):
    """One pooling. `attention` is the implementation of `ata_attention` that ran; `slower_percent` is the
    median of the rounds' differences from mean pooling, between its quartiles."""

    pooling: str
    step_ms: float
    tokens_per_s: float
    peak_mib: float | None
    slower_percent: float | None = None
    lower_quartile: float | None = None
    upper_quartile: float | None = None
    rounds: int = 0
    texts: int = 0
    tokens: int = 0
    longest: int = 0
    attention: str = ""
    note: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cpu" and not options.tiny:
        print("error: a step of a 7B model needs a GPU; on a CPU try --tiny", file=sys.stderr)
        return 2
    sizes = TINY if options.tiny else Sizes(texts=options.texts, longest=options.longest)
    rows = measure(sizes, device, rounds=options.rounds)
    path = options.output / f"{environment.file_name(device)}-step{'-tiny' if options.tiny else ''}.csv"
    table.write(path, environment.describe(device), StepRow._fields, rows)
    ata, mean = rows
    print(f"ATA {ata.step_ms:.4g} ms, mean {mean.step_ms:.4g} ms: {ata.slower_percent:+.2f} % {ata.note}")
    return 0


def measure(sizes: Sizes, device: torch.device, *, rounds: int = 15, warm_up: int = 3) -> list[StepRow]:
    """A row for each of METHODS."""
    backbone = make_backbone(sizes, device)
    batch = make_batch(sizes, device)
    models = {
        method: EmbeddingModel(backbone, Pooling(PoolingConfig(method=method))).train() for method in METHODS
    }
    adapters = [weight for weight in backbone.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(adapters, lr=1e-5, fused=device.type == "cuda")
    steps = {method: training_step(model, batch, optimizer) for method, model in models.items()}
    for _ in range(warm_up):
        for step in steps.values():
            step()
    times = take_turns(steps, device, rounds)
    peaks = {method: _peak_mib(step, device) for method, step in steps.items()}
    return _rows(times, peaks, batch, attention_of(models["ata"], batch))


def described(ata: StepRow) -> str:
    """How much slower than mean pooling, with which attention, and whether that was aimed at."""
    return (
        f"{ata.slower_percent:+.2f} %, quartiles {ata.lower_quartile:.2f} and {ata.upper_quartile:.2f} in "
        f"{ata.rounds} rounds, attention by {ata.attention}; {ata.note}"
    )


def make_backbone(sizes: Sizes, device: torch.device) -> nn.Module:
    """A Mistral with random weights and LoRA adapters on all its linear layers, made on the device."""
    import peft

    config = MistralConfig(
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        intermediate_size=sizes.intermediate,
        vocab_size=sizes.vocabulary,
        max_position_embeddings=32768,
        sliding_window=None,
        attention_dropout=0.0,
    )
    config.is_causal = False
    torch.manual_seed(sizes.seed)
    with device:
        backbone = AutoModel.from_config(config, dtype=sizes.dtype, attn_implementation=register())
    backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    lora = LoraConfig(rank=sizes.rank)
    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear"
    )
    return peft.get_peft_model(backbone, settings).to(device)


def make_batch(sizes: Sizes, device: torch.device) -> PackedBatch:
    """Texts of random tokens: the first half are queries, the second their positives."""
    lengths = realistic_lengths(sizes.texts, longest=sizes.longest, seed=sizes.seed)
    draw = np.random.default_rng(sizes.seed)
    rows = [(draw.integers(3, sizes.vocabulary, n).tolist(), [True] * n) for n in lengths]
    return PackedBatch.of(rows).to(device)


def attention_of(model: EmbeddingModel, batch: PackedBatch) -> str:
    """The implementation that made the column sums; raises AssertionError if they made no difference."""
    with torch.no_grad():
        _, collector = model.states(batch)
        weights = model.token_weights(batch)
    assert collector is not None
    even = 1 / batch.spread(batch.lengths)
    assert not torch.allclose(weights, even, rtol=1e-3), "ATA's weights are those of mean pooling"
    return ", ".join(sorted({layer.backend for layer in collector.by_layer.values()}))


def training_step(
    model: EmbeddingModel, batch: PackedBatch, optimizer: torch.optim.Optimizer
) -> Callable[[], None]:
    """A whole training step: forward, loss, backward, update."""

    def step() -> None:
        queries, positives = model(batch).chunk(2)
        scores = queries @ positives.T / TEMPERATURE
        labels = torch.arange(len(queries), device=scores.device)
        nn.functional.cross_entropy(scores, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def take_turns(
    steps: Mapping[Name, Callable[[], None]], device: torch.device, rounds: int
) -> dict[Name, list[float]]:
    """Milliseconds of each step in each round; every other round goes backwards."""
    times: dict[Name, list[float]] = {name: [] for name in steps}
    for i in tqdm(range(rounds), unit="round"):
        for name in list(steps)[:: 1 if i % 2 == 0 else -1]:
            _wait(device)
            started = time.perf_counter()
            steps[name]()
            _wait(device)
            times[name].append(1e3 * (time.perf_counter() - started))
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_mib(step: Callable[[], None], device: torch.device) -> float | None:
    """The most memory that is allocated during a step, the model's included; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / timing.MIB


def _rows(
    times: dict[PoolingMethod, list[float]],
    peaks: dict[PoolingMethod, float | None],
    batch: PackedBatch,
    attention: str,
) -> list[StepRow]:
    differences = [100 * (ata / mean - 1) for ata, mean in zip(times["ata"], times["mean"], strict=True)]
    lower, median, upper = np.percentile(differences, (25, 50, 75)).tolist()
    met = "met" if median <= STEP_PERCENT else "not met"
    ata, mean = (
        StepRow(
            method,
            step_ms := statistics.median(times[method]),
            1e3 * batch.tokens / step_ms,
            peaks[method],
            rounds=len(times[method]),
            texts=batch.texts,
            tokens=batch.tokens,
            longest=batch.max_seqlen,
        )
        for method in METHODS
    )
    return [
        ata._replace(
            slower_percent=median,
            lower_quartile=lower,
            upper_quartile=upper,
            attention=attention,
            note=f"target: at most {STEP_PERCENT:g} % slower: {met}",
        ),
        mean,
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step", description=(__doc__ or "").split("\n")[0]
    )
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if has_gpu else "cpu")
    parser.add_argument("--tiny", action="store_true", help="a model that runs anywhere")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each pooling")
    parser.add_argument("--texts", type=int, default=Sizes.texts, help="texts in the batch, an even number")
    parser.add_argument("--longest", type=int, default=Sizes.longest, help="tokens of the longest text")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
