"""Matryoshka representation learning (Kusupati et al., 2022): embeddings that may be cut short.

    loss = Σ_m w_m loss(z[:m] / ‖z[:m]‖)

over the widths m that the recipe names.
"""

import torch

from mgh_ds.common.errors import MghError
from mgh_ds.losses import make_loss
from mgh_ds.losses.base import Labels, Loss, LossOutput
from mgh_ds.losses.gather import Exchange
from mgh_ds.losses.settings import GuideSettings, MatryoshkaSettings


class Matryoshka(Loss):
    """The formula above. Statistics: the loss at each width before weighing and what the loss itself has to
    say of it, under the width, such as `256`.

    Raises MghError for a width beyond the embeddings'.
    """

    settings: MatryoshkaSettings

    def __init__(
        self, settings: MatryoshkaSettings, exchange: Exchange, guide: GuideSettings | None = None
    ) -> None:
        super().__init__(settings, exchange)
        self.loss = make_loss(settings.loss, exchange, guide)
        self.weights = settings.weights or [1.0] * len(settings.dims)

    def __call__(self, embeddings: torch.Tensor, labels: Labels) -> LossOutput:
        widths = zip(self.settings.dims, self.weights, strict=True)
        parts = ((str(width), weight, self.loss(cut(embeddings, width), labels)) for width, weight in widths)
        return LossOutput.weighted(parts, labels)


def cut(embeddings: torch.Tensor, width: int) -> torch.Tensor:
    """The first `width` dimensions, of unit length again: [..., d] → [..., width]. Raises MghError where
    there are fewer."""
    if width > embeddings.shape[-1]:
        raise MghError(
            f"training.loss.dims: embeddings of {embeddings.shape[-1]} dimensions have no first {width}"
        )
    if width == embeddings.shape[-1]:
        return embeddings
    return torch.nn.functional.normalize(embeddings[..., :width], dim=-1)
