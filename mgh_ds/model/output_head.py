"""The output head of a decoder, by which its states predict tokens; embeddings never load it."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mgh_ds.common.errors import MghError
from mgh_ds.model.backbone import DECODERS, read_config
from mgh_ds.model.weights import weight_files

NAME = "lm_head.weight"
# What some architectures do to the logits between head and softmax, and this project does not.
TRANSFORMS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


def check_output_head(folder: Path) -> None:
    """Raises MghError for a model that is no decoder, whose logits are not simply states times head, or whose
    folder lacks the head; and for what `read_config` refuses. Loads no weights."""
    config = read_config(folder)
    if config.model_type not in DECODERS:
        raise MghError(
            f"{folder} holds a {config.model_type!r} model, which is bidirectional already: masked "
            f"next-token prediction is for decoders ({', '.join(DECODERS)})"
        )
    transforms = [name for name in TRANSFORMS if getattr(config, name, None) not in (None, 1, 1.0)]
    if transforms:
        raise MghError(
            f"{folder / 'config.json'}: {transforms[0]} changes the logits, which is not supported"
        )
    if not config.tie_word_embeddings and _file_of_head(folder) is None:
        raise MghError(
            f"{folder} holds no {NAME}, from which tokens would be predicted: it was saved without its head; "
            "take the model that it was made from"
        )


def output_head(folder: Path, backbone: Any) -> Tensor:
    """The head `[V, dim]` of the backbone that was loaded from `folder`, frozen, in its precision and on its
    device: the embedding table where the two are tied."""
    table: Tensor = backbone.get_input_embeddings().weight.detach()
    if backbone.config.tie_word_embeddings:
        return table
    path = _file_of_head(folder)
    assert path is not None, "check_output_head comes first"
    with safe_open(path, "pt") as file:
        head: Tensor = file.get_tensor(NAME)
    if head.shape != table.shape:
        raise MghError(f"{path}: {NAME} is {list(head.shape)}, but the embedding table {list(table.shape)}")
    return head.to(table)


def _file_of_head(folder: Path) -> Path | None:
    for path in weight_files(folder):
        try:
            with safe_open(path, "pt") as file:
                if NAME in file.keys():  # noqa: SIM118 (a file of safetensors is no mapping)
                    return path
        except (OSError, SafetensorError) as error:
            raise MghError(f"{folder} holds no readable weights in safetensors format: {error}") from None
    return None
