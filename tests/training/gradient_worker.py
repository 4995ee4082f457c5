"""One rank of the gradient test.

Under a real DeepSpeed engine (ZeRO-2, gloo) it computes the gradient of one global batch for each micro-batch
size and rank 0 writes them to OUT, to be compared across numbers of ranks.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from mgh_ds.curriculum import Loader
from mgh_ds.records.store import Store
from mgh_ds.training.config import RunConfig
from mgh_ds.training.distributed import process_group, rank, world_size
from mgh_ds.training.engine import make_engine
from mgh_ds.training.inputs import tokenize
from mgh_ds.training.step import accumulate_gradient
from tests.training.gradient_setup import STEP, make_config, make_model, make_plan


def main(store_path: Path, out: Path, micro_batches: tuple[int, ...]) -> None:
    from deepspeed.utils import safe_get_full_grad

    store = Store.open(store_path)
    with process_group():
        for micro_batch in micro_batches:
            config: RunConfig = make_config(micro_batch)
            model, tokenizer = make_model(config)
            engine = make_engine(model, config.model, config.training)
            batches = Loader(store, make_plan(store, config)).micro_batches(STEP, world_size(), rank())
            result = accumulate_gradient(
                engine, [tokenize(batch, tokenizer) for batch in batches], config.training.loss
            )
            gradients = {
                name: safe_get_full_grad(parameter).clone().contiguous()
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            }
            gradients["loss"] = torch.tensor([result.loss], dtype=torch.float64)
            if rank() == 0:
                save_file(gradients, out / f"{world_size()}-{micro_batch}.safetensors")
