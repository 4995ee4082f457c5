"""One rank of the gradient test of masked next-token prediction."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from mgh_ds.curriculum import Loader
from mgh_ds.distributed.group import process_group, rank, world_size
from mgh_ds.training.config import RunConfig
from mgh_ds.training.engine import make_engine
from mgh_ds.training.mntp import Mntp
from tests.training.gradient_setup import make_model, make_plan
from tests.training.mntp_setup import STEP, open_data


def main(config: RunConfig, out: Path) -> None:
    """Rank 0 writes the gradient of one global batch, with the loss."""
    from deepspeed.utils import safe_get_full_grad

    with process_group():
        torch.set_num_threads(1)
        model, tokenizer = make_model(config)
        store, objective = open_data(config), Mntp(config)
        engine = make_engine(model, config.model, config.training)
        texts = Loader(store, make_plan(store, config)).micro_batches(STEP, world_size(), rank())
        batches = [objective.make_batch(one, tokenizer, STEP) for one in texts]
        result = objective.accumulate_gradient(engine, batches, 1).read()
        gradients = {
            name: safe_get_full_grad(parameter).clone().contiguous()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        gradients["loss"] = torch.tensor([result.loss], dtype=torch.float64)
        if rank() == 0:
            save_file(gradients, out / f"{world_size()}.safetensors")
