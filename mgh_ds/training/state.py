"""What training changes, by parameter name: the same tensors for every number of ranks.

ZeRO-2 keeps each rank's slice of the float32 weights and of Adam's moments. A checkpoint holds them whole, so
that any number of ranks can go on from it: 12 bytes a trained weight, 0.5 GB for adapters of rank 16 on a 7B
model, 85 GB for all of its weights. So they are put together, and dealt out again, one tensor at a time.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mgh_ds.common.errors import MghError
from mgh_ds.distributed.group import from_main, is_main, on_main
from mgh_ds.training.tensor_file import LazyTensors

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainingState:
    """`updates` counts Adam's steps, which its bias correction needs; before the first there are no
    moments."""

    weights: LazyTensors
    moments: LazyTensors  # "exp_avg/<parameter>", "exp_avg_sq/<parameter>"
    updates: int

    def tensors(self) -> Iterator[torch.Tensor]:
        """All of them, each read when its turn comes: the weights, then the moments."""
        for part in (self.weights, self.moments):
            for name in part.shapes:
                yield part.read(name)


def collect(engine: Any) -> TrainingState:
    """The engine's state, to be read on every rank and in the order of `tensors`: each reading is a
    collective. On rank 0 it gives the tensor; on the others, which only take part, an empty one."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    parameters, updates = trainable(engine.module), _updates(engine)

    def weight(name: str) -> torch.Tensor:
        return _keep(safe_get_full_fp32_param(parameters[name]))

    def moment(name: str) -> torch.Tensor:
        key, _, parameter = name.partition("/")
        return _keep(safe_get_full_optimizer_state(parameters[parameter], key))

    return TrainingState(
        LazyTensors(weight_shapes(parameters), weight),
        LazyTensors(moment_shapes(parameters, updates), moment),
        updates,
    )


def restore(engine: Any, load: Callable[[], TrainingState], step: int) -> None:
    """Puts the engine where it was after `step` steps. Rank 0 alone calls `load` and sends the others what it
    reads, a tensor at a time: a thousand ranks that read the same file at once are hard on a shared disk.

    Raises MghError, before a tensor is read, when the weights are not those that this model trains.
    """
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    parameters = trainable(engine.module)
    found: list[TrainingState] = []  # filled on rank 0 alone

    def open_state() -> int:
        state = load()
        _check_fit(state, parameters)
        found.append(state)
        return state.updates

    updates = on_main(open_state)
    weights, moments = (found[0].weights, found[0].moments) if found else (None, None)
    _make_moments(engine, updates)
    for name, parameter in parameters.items():
        weight = _receive(weights, name, parameter)
        safe_set_full_fp32_param(parameter, weight)
        parameter.data.copy_(weight)  # the copy that the forward pass reads, in the model's precision
        del weight  # one tensor at a time
        for key in MOMENTS if updates else ():
            safe_set_full_optimizer_state(parameter, _receive(moments, f"{key}/{name}", parameter), key)
    engine.lr_scheduler.last_epoch = step - 1  # the rate is a function of the step alone
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step")  # before the optimiser's: on purpose
        engine.lr_scheduler.step()


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def weight_shapes(parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.Size]:
    """Shapes of the weights that a checkpoint of these parameters holds."""
    return {name: parameter.shape for name, parameter in parameters.items()}


def moment_shapes(parameters: Mapping[str, torch.nn.Parameter], updates: int) -> dict[str, torch.Size]:
    """Shapes of the moments that a checkpoint of these parameters holds after so many updates."""
    keys = MOMENTS if updates else ()
    return {f"{key}/{name}": parameter.shape for key in keys for name, parameter in parameters.items()}


def _check_fit(state: TrainingState, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    found = state.weights.shapes | state.moments.shapes
    wanted = weight_shapes(parameters) | moment_shapes(parameters, state.updates)
    if found == wanted:
        return
    name = min(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    there, here = (list(shapes[name]) if name in shapes else "none" for shapes in (found, wanted))
    raise MghError(
        "the checkpoint's weights do not fit this model: another backbone or other adapters cannot go on "
        f"from it ({name}: {there} in the checkpoint, {here} here). Choose another --name"
    )


def _receive(tensors: LazyTensors | None, name: str, parameter: torch.nn.Parameter) -> torch.Tensor:
    """The tensor that rank 0 reads, on every rank: float32, of the parameter's shape and on its device."""
    if tensors is None:
        return from_main(torch.empty(parameter.shape, dtype=torch.float32, device=parameter.device))
    return from_main(tensors.read(name).to(parameter.device))


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
