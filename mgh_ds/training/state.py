"""What training changes, by parameter name: the same tensors for every number of ranks.

ZeRO-2 keeps each rank's slice of the float32 weights and of Adam's moments. Taken together they are small
when only adapters train (12 bytes a trained weight: 0.5 GB for rank 16 on a 7B model), so a checkpoint holds
them whole, and any number of ranks can go on from it.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mgh_ds.common.errors import MghError
from mgh_ds.distributed.group import from_main, is_main, on_main

MOMENTS = ("exp_avg", "exp_avg_sq")

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TrainingState:
    """float32 tensors on the CPU. `updates` counts Adam's steps, which its bias correction needs; before the
    first there are no moments."""

    weights: Tensors
    moments: Tensors  # "exp_avg/<parameter>", "exp_avg_sq/<parameter>"
    updates: int


def collect(engine: Any) -> TrainingState | None:
    """A copy of the engine's state, on rank 0; None on the others. Every rank must call it."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    updates = _updates(engine)
    weights, moments = {}, {}
    for name, parameter in trainable(engine.module).items():
        weights[name] = _keep(safe_get_full_fp32_param(parameter))
        for key in MOMENTS if updates else ():
            moments[f"{key}/{name}"] = _keep(safe_get_full_optimizer_state(parameter, key))
    return TrainingState(weights, moments, updates) if is_main() else None


def restore(engine: Any, load: Callable[[], TrainingState], step: int) -> None:
    """Puts the engine where it was after `step` steps. Rank 0 alone calls `load` and sends the others what it
    read, a tensor at a time: a thousand ranks that read the same file at once are hard on a shared disk.

    Raises MghError when the weights are not those that this model trains.
    """
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    parameters = trainable(engine.module)
    found: Tensors = {}  # filled on rank 0 alone

    def read() -> int:
        state = load()
        found.update(state.weights | state.moments)
        fits = {key: (tensor.shape, tensor.dtype) for key, tensor in found.items()}
        if fits != _wanted(parameters, state.updates):
            raise MghError(
                "the checkpoint's weights do not fit this model: another backbone or other adapters cannot "
                "go on from it. Choose another --name"
            )
        return state.updates

    updates = on_main(read)
    _make_moments(engine, updates)
    for name, parameter in parameters.items():
        weight = _receive(found.get(name), parameter)
        safe_set_full_fp32_param(parameter, weight)
        parameter.data.copy_(weight)  # the copy that the forward pass reads, in the model's precision
        for key in MOMENTS if updates else ():
            moment = _receive(found.get(f"{key}/{name}"), parameter)
            safe_set_full_optimizer_state(parameter, moment, key)
    engine.lr_scheduler.last_epoch = step - 1  # the rate is a function of the step alone
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step")  # before the optimiser's: on purpose
        engine.lr_scheduler.step()


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _wanted(
    parameters: dict[str, torch.nn.Parameter], updates: int
) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and dtype of everything that a checkpoint after so many updates holds."""
    prefixes = ["", *(f"{key}/" for key in MOMENTS if updates)]
    return {
        prefix + name: (parameter.shape, torch.float32)
        for prefix in prefixes
        for name, parameter in parameters.items()
    }


def _receive(tensor: torch.Tensor | None, parameter: torch.nn.Parameter) -> torch.Tensor:
    """Rank 0's tensor, on every rank: float32, of the parameter's shape and on its device."""
    if tensor is None:
        return from_main(torch.empty(parameter.shape, dtype=torch.float32, device=parameter.device))
    return from_main(tensor.to(parameter.device))


def _keep(tensor: torch.Tensor) -> torch.Tensor:
    """On the CPU where it is needed; the other ranks let it go at once."""
    return tensor.cpu().contiguous() if is_main() else tensor.new_empty(0)


def _updates(engine: Any) -> int:
    counts = [int(values["step"]) for values in engine.optimizer.optimizer.state.values()]
    return max(counts, default=0)


def _make_moments(engine: Any, updates: int) -> None:
    """Adam makes its moments at its first step, which a run that goes on must not wait for."""
    if not updates:
        return
    optimizer = engine.optimizer
    for flat in optimizer.single_partition_of_fp32_groups:
        optimizer.optimizer.state[flat] = {
            "step": torch.tensor(float(updates)),
            **{key: torch.zeros_like(flat) for key in MOMENTS},
        }
    optimizer._lazy_init_hp_params_optimizer_state()  # links parameters to their slices of the moments
