"""Real processes under DeepSpeed ZeRO-2: 1, 2, 3 and 4 ranks, chunked or whole, whatever they gather and how,
give the gradient of one plain process.

The batch has an identical text, records of both kinds and empty places. The reference embeds every text in
one process without DeepSpeed, in padded batches where the ranks pack theirs, and takes the loss written out
with loops.

Tolerance: everything runs in float32, whose sums over the candidates differ in order only: 1e-5 of a
tensor's largest entry is about a hundred units in the last place, while the known mistakes (1/W, W times,
local candidates only) are wrong by 20 % and more.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mgh_ds.curriculum import Loader
from mgh_ds.losses.base import Labels
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store, StoreWriter
from mgh_ds.training.batch import make_batch
from mgh_ds.training.config import TrainingConfig
from mgh_ds.training.step import embed
from tests.losses.brute_force import mean_loss
from tests.ranks import run_ranks
from tests.training import gradient_worker
from tests.training.gradient_setup import GLOBAL_BATCH, STEP, WAYS, make_config, make_model, make_plan

SAMPLE = Path("mgh_ds/records/sample/train.jsonl")
WORLD_SIZES = (1, 2, 3, 4)
# Beside micro-batches of 4: the whole local batch at once, without caching, and smaller ones.
MICRO_BATCHES = {1: (16,), 2: (8,), 3: (), 4: (2,)}
WAY = "whole, all negatives, 1 groups"

Gradients = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    records = [Record.model_validate_json(line) for line in SAMPLE.read_text().splitlines()]
    chosen = [record for record in records if record.task.subtype in ("short-short", "sts")][
        : GLOBAL_BATCH + 13
    ]
    twin = chosen[0].model_copy(update={"id": "twin", "query": chosen[1].query})
    random = np.random.default_rng(7)
    path = tmp_path_factory.mktemp("gradients") / "store"
    with StoreWriter(path) as writer:
        for record in [*chosen[:-1], twin]:
            writer.add(with_scores(record, random))
    return Store.open(path)


def with_scores(record: Record, random: np.random.Generator) -> Record:
    """For the losses that learn from a teacher."""
    scores = iter(random.uniform(size=1 + len(record.negatives)).tolist())
    negatives = [negative.model_copy(update={"score": next(scores)}) for negative in record.negatives]
    return record.model_copy(update={"negatives": negatives, "score": next(scores)})


@pytest.fixture(scope="module")
def references(store: Store) -> dict[str, Gradients]:
    """By way; what is gathered changes the loss, but how it travels does not: "ring" has those of "whole"."""
    found: dict[str, Gradients] = {}
    for way, training in WAYS.items():
        if training.gather == "whole":
            found[way] = reference(store, training)
    return found


def reference(store: Store, training: TrainingConfig) -> Gradients:
    config = make_config(training)
    model, tokenizer = make_model(config)
    assert tokenizer.padding_free
    tokenizer.padding_free = False
    texts = Loader(store, make_plan(store, config)).micro_batches(STEP, 1, 0)
    batches = [make_batch(one, tokenizer) for one in texts]
    embeddings = torch.cat([embed(model, batch) for batch in batches])
    labels = Labels.cat([batch.labels for batch in batches])
    assert 0 < labels.valid.sum() < GLOBAL_BATCH, "the batch must have empty places"
    assert len(labels.group.unique()) == training.negative_groups
    loss = mean_loss(embeddings, labels, training.loss)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return gradients | {"loss": loss.detach().double().reshape(1)}


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_ranks_chunks_and_gathering_do_not_change_the_gradient(
    world_size: int, store: Store, references: dict[str, Gradients], tmp_path: Path
) -> None:
    ways = WAYS | {
        f"{WAY}, micro-batches of {size}": WAYS[WAY].replace(micro_batch=size)
        for size in MICRO_BATCHES[world_size]
    }
    run_ranks(world_size, gradient_worker.main, store.path, tmp_path, ways)
    for way in ways:
        expected = references.get(way.replace("ring", "whole"), references[WAY])
        found = load_file(tmp_path / f"{way}.safetensors")
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert gradient.abs().max() > 0, f"{name}: a gradient of zero proves nothing"
            error = (found[name] - gradient).abs().max() / gradient.abs().max()
            assert error < 1e-5, f"{way}; {name} with {world_size} ranks: relative error {error:.1e}"


def test_the_ways_differ(references: dict[str, Gradients]) -> None:
    """Else nothing would show that the ranks took the one they were told to."""
    losses = {way: loss["loss"].item() for way, loss in references.items()}
    assert len(set(losses.values())) == len(losses), losses
