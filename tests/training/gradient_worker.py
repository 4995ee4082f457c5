"""One rank of the gradient test.

Under a real DeepSpeed engine (ZeRO-2, gloo) it computes the gradient of one global batch for each way and
micro-batch size, and rank 0 writes them to OUT, to be compared across numbers of ranks.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from mgh_ds.curriculum import Loader
from mgh_ds.distributed.group import process_group, rank, world_size
from mgh_ds.losses import make_loss
from mgh_ds.losses.gather import Exchange
from mgh_ds.records.store import Store
from mgh_ds.training.batch import make_batch
from mgh_ds.training.config import TrainingConfig
from mgh_ds.training.engine import make_engine
from mgh_ds.training.step import accumulate_gradient
from tests.training.gradient_setup import STEP, make_config, make_model, make_plan


def main(store_path: Path, out: Path, ways: Mapping[str, TrainingConfig]) -> None:
    from deepspeed.utils import safe_get_full_grad

    store = Store.open(store_path)
    with process_group():
        torch.set_num_threads(1)  # for tensors this small, threads would only wait for each other
        first = next(iter(ways.values()))
        model, tokenizer = make_model(make_config(first))
        # One engine for all: updates at a rate of 0 leave the weights and clear the gradient.
        still = first.model_copy(update={"learning_rate": 0.0})  # which a recipe may not ask for
        engine = make_engine(model, make_config(first).model, still)
        for way, training in ways.items():
            plan = make_plan(store, make_config(training))
            texts = Loader(store, plan).micro_batches(STEP, world_size(), rank())
            loss = make_loss(training.loss, Exchange(training.gather, training.negative_groups))
            batches = [make_batch(one, tokenizer) for one in texts]
            result = accumulate_gradient(engine, batches, loss, plan.records(STEP)).read()
            gradients = {
                name: safe_get_full_grad(parameter).clone().contiguous()
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            }
            gradients["loss"] = torch.tensor([result.loss], dtype=torch.float64)
            if rank() == 0:
                save_file(gradients, out / f"{way}.safetensors")
            engine.step()
