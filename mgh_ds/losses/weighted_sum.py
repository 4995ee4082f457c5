"""Several losses of the same batch, each times its weight: loss = Σ_t w_t loss_t."""

from collections import Counter

import torch

from mgh_ds.losses import make_loss
from mgh_ds.losses.base import Labels, Loss, LossOutput
from mgh_ds.losses.gather import Exchange
from mgh_ds.losses.settings import GuideSettings, WeightedSumSettings


class WeightedSum(Loss):
    """The formula above. Statistics: of each term its loss before weighing, and its own statistics, all under
    the term's name; terms of the same name are numbered."""

    settings: WeightedSumSettings

    def __init__(
        self, settings: WeightedSumSettings, exchange: Exchange, guide: GuideSettings | None = None
    ) -> None:
        super().__init__(settings, exchange)
        self.terms = [(term.weight, make_loss(term.loss, exchange, guide)) for term in settings.terms]
        self.names = _names([term.loss.name for term in settings.terms])

    def __call__(self, embeddings: torch.Tensor, labels: Labels) -> LossOutput:
        named = zip(self.names, self.terms, strict=True)
        parts = ((name, weight, loss(embeddings, labels)) for name, (weight, loss) in named)
        return LossOutput.weighted(parts, labels)


def _names(names: list[str]) -> list[str]:
    """As they are, those that come more than once with their number: info_nce-1, info_nce-2."""
    often, seen = Counter(names), Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(f"{name}-{seen[name]}" if often[name] > 1 else name)
    return found
