"""What a run trains on top of: a backbone and, merged into it, the adapters of earlier runs.

    model:
      name_or_path: mistralai/Mistral-7B-Instruct-v0.2
      adapters: [runs/mistral-7b-mntp]

The checkpoint of a run knows the fingerprint of all that lay below it. So adapters fit where their own
checkpoint was made on this backbone with the adapters that stand before them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mgh_ds.common.config import load_config
from mgh_ds.common.errors import MghError
from mgh_ds.model.adapters import Adapter
from mgh_ds.model.config import ModelConfig
from mgh_ds.model.embedder import EmbeddingModel, build_model
from mgh_ds.model.fingerprint import Fingerprint, fingerprint
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.training import checkpoint
from mgh_ds.training.choice import Choice, choose
from mgh_ds.training.config import RunConfig
from mgh_ds.training.tensor_file import open_file


class _Layer(NamedTuple):
    """A run's adapters, as `model.adapters` names them."""

    name: str
    config: RunConfig
    choice: Choice


def base_fingerprint(config: ModelConfig) -> Fingerprint:
    """The fingerprint of the backbone, then "adapter-1", … → the SHA-256 of each adapters' weights, and their
    scale.

    Raises MghError for what `fingerprint` refuses, and for adapters that are missing, are none, or were
    trained on another backbone.
    """
    found = dict(fingerprint(config.name_or_path))
    for number, layer in enumerate(_layers(config), start=1):
        _check(layer, config, found)
        found[f"adapter-{number}"] = _known_as(layer)
    return found


def build_run_model(
    config: ModelConfig, base: Fingerprint, seed: int = 0
) -> tuple[EmbeddingModel, Tokenizer]:
    """`build_model` with the adapters that the recipe names, which are those of `base`, the model's
    `base_fingerprint`. Raises MghError as `build_model` does, and if one has been trained on since."""
    layers = list(_layers(config))
    for number, layer in enumerate(layers, start=1):
        if base[f"adapter-{number}"] != _known_as(layer):
            raise MghError(
                f"model.adapters: {layer.name} has another checkpoint now than when it was checked; let that "
                "run come to its end, then start again"
            )
    return build_model(config, seed, [_adapter(layer) for layer in layers])


def adapter_lines(config: ModelConfig) -> list[str]:
    """Which checkpoint of each earlier run is taken, in words."""
    return [f"adapters of {layer.name}: {layer.choice.words}" for layer in _layers(config)]


def _layers(config: ModelConfig) -> Iterator[_Layer]:
    for name in config.adapters:
        run = Path(name)
        if not (run / "config.yaml").is_file():
            raise MghError(f"model.adapters: {name} is no folder of a run: it holds no config.yaml")
        try:
            trained = load_config(RunConfig, ["--config", str(run / "config.yaml")])
            choice = choose(run, trained.evaluation.metric)
        except MghError as error:
            raise MghError(f"model.adapters: {name} cannot be taken: {error}") from None
        yield _Layer(name, trained, choice)


def _check(layer: _Layer, config: ModelConfig, below: Fingerprint) -> None:
    """Raises MghError unless the adapters were trained on what lies `below`."""
    name, trained = layer.name, layer.config
    changed = checkpoint.backbone_changes(layer.choice.manifest, below, trained.accept_changes)
    if changed:
        raise MghError(
            f"model.adapters: {name} was trained on {trained.model.name_or_path}, which is not what "
            f"{config.name_or_path} is here; differing: {'; '.join(map(str, changed))}. Name adapters of "
            "this backbone, in the order in which they were trained"
        )
    if trained.model.lora is None:
        raise MghError(
            f"model.adapters: {name} trained all weights and has no adapters: make its export "
            "model.name_or_path"
        )
    if trained.model.num_layers != config.num_layers:
        raise MghError(
            f"model.adapters: {name} was trained with model.num_layers {trained.model.num_layers}, but here "
            f"it is {config.num_layers}: both must be the same"
        )


def _known_as(layer: _Layer) -> str:
    return f"{layer.choice.manifest['files'][checkpoint.WEIGHTS]}, scale {_scale(layer):g}"


def _adapter(layer: _Layer) -> Adapter:
    weights = open_file(layer.choice.path / checkpoint.WEIGHTS)
    return Adapter(layer.name, _scale(layer), weights.shapes, weights.read)


def _scale(layer: _Layer) -> float:
    """Of B·A as the run's export has it merged."""
    lora = layer.config.model.lora
    assert lora is not None, "checked before"
    return layer.config.evaluation.interpolate * lora.alpha / lora.rank
