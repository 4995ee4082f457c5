"""Real processes under DeepSpeed ZeRO-2: 1, 2, 3 and 4 ranks, chunked or whole, give the gradient of one
plain process.

The batch has an identical text, records of both kinds and empty slots. The reference embeds every slot in one
process without DeepSpeed, in padded batches where the ranks pack theirs, and takes the loss written out with
loops.

Tolerance: everything runs in float32, whose sums over the pool differ in order only: 1e-5 of a tensor's
    largest entry is about
a hundred units in the last place, while the known mistakes (1/W, W times, local pool) are wrong by 20 % and
more.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mgh_ds.curriculum import Loader
from mgh_ds.curriculum.loader import MicroBatch
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store, StoreWriter
from mgh_ds.training.inputs import tokenize
from mgh_ds.training.loss import Pool
from mgh_ds.training.step import embed
from tests.ranks import run_ranks
from tests.training import gradient_worker
from tests.training.brute_force import mean_loss
from tests.training.gradient_setup import GLOBAL_BATCH, STEP, make_config, make_model, make_plan

SAMPLE = Path("mgh_ds/records/sample/train.jsonl")
MICRO_BATCHES = {1: (16, 4), 2: (8, 4), 3: (4,), 4: (4, 2)}  # 16 on 1 rank, 8 on 2, 4 on 4: whole, no caching


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    records = [Record.model_validate_json(line) for line in SAMPLE.read_text().splitlines()]
    chosen = [record for record in records if record.task.subtype in ("short-short", "sts")][
        : GLOBAL_BATCH + 13
    ]
    twin = chosen[0].model_copy(update={"id": "twin", "query": chosen[1].query})
    path = tmp_path_factory.mktemp("gradients") / "store"
    with StoreWriter(path) as writer:
        for record in [*chosen[:-1], twin]:
            writer.add(record)
    return Store.open(path)


@pytest.fixture(scope="module")
def reference(store: Store) -> dict[str, torch.Tensor]:
    config = make_config(GLOBAL_BATCH)
    model, tokenizer = make_model(config)
    assert tokenizer.padding_free
    tokenizer.padding_free = False
    (batch,) = Loader(store, make_plan(store, config)).micro_batches(STEP, 1, 0)
    assert 0 < batch.valid.sum() < GLOBAL_BATCH, "the batch must have empty slots"
    loss = mean_loss(pool_of(batch, embed(model, tokenize(batch, tokenizer))), config.training.loss)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return gradients | {"loss": loss.detach().double().reshape(1)}


def pool_of(batch: MicroBatch, embeddings: torch.Tensor) -> Pool:
    names = ("valid", "document_valid", "query_hash", "document_hash", "symmetric")
    return Pool(embeddings, *(torch.from_numpy(getattr(batch, name).copy()) for name in names))


@pytest.mark.parametrize("world_size", MICRO_BATCHES)
def test_ranks_and_chunks_do_not_change_the_gradient(
    world_size: int, store: Store, reference: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    sizes = MICRO_BATCHES[world_size]
    run_ranks(world_size, gradient_worker.main, store.path, tmp_path, sizes)
    for size in sizes:
        found = load_file(tmp_path / f"{world_size}-{size}.safetensors")
        assert found.keys() == reference.keys()
        for name, expected in reference.items():
            assert expected.abs().max() > 0, f"{name}: a gradient of zero proves nothing"
            error = (found[name] - expected).abs().max() / expected.abs().max()
            assert error < 1e-5, (
                f"{name} with {world_size} ranks, micro-batches of {size}: relative error {error:.1e}"
            )
