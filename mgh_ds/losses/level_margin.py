"""Margins by level: a query's positive stands above each of its graded negatives by what the level asks for,
and a harder negative above an easier one.

    loss_i = mean_k φ(m_l(k) − cos(q_i, p_i) + cos(q_i, n_ik))
           + w mean_jk φ(m_o − cos(q_i, n_ij) + cos(q_i, n_ik))        over j, k with l(j) = l(k) + 1

φ(x) = max(0, x), or softly s log(1 + exp(x / s)). The first part is the triplet loss of Schroff et al.,
"FaceNet", 2015, with a margin a level; the second asks of neighbouring levels what their names promise.
"""

import torch

from mgh_ds.losses.base import Labels, Loss, LossOutput, Ratio, constants
from mgh_ds.losses.gather import Exchange
from mgh_ds.losses.settings import LevelMarginSettings


class LevelMargin(Loss):
    """The formula above; ungraded negatives count for nothing. Statistics: `violated_share`, of the graded
    negatives that are nearer than their level allows, and `disordered_share`, of the neighbouring pairs."""

    settings: LevelMarginSettings

    def __init__(self, settings: LevelMarginSettings, exchange: Exchange) -> None:
        super().__init__(settings, exchange)
        self.margins = (0.0, *settings.margins)  # nothing is asked of an ungraded one

    def __call__(self, embeddings: torch.Tensor, labels: Labels) -> LossOutput:
        cosines = torch.einsum("nd,nkd->nk", embeddings[:, 0], embeddings[:, 1:])
        levels, negatives = labels.levels, cosines[:, 1:]
        graded = labels.document_valid[:, 1:] & labels.valid[:, None] & (levels > 0)
        margins = constants(self.margins, cosines.dtype, cosines.device)
        below = margins[levels] - cosines[:, :1] + negatives
        neighbours = levels[:, :, None] == levels[:, None] + 1  # [n, K, K]: the harder one, the easier one
        neighbours &= graded[:, :, None] & graded[:, None]
        order = self.settings.order_margin - negatives[:, :, None] + negatives[:, None]
        losses = self._mean(below, graded) + self.settings.order_weight * self._mean(order, neighbours)
        statistics = {
            "violated_share": Ratio(((below > 0) & graded).sum(), graded.sum()),
            "disordered_share": Ratio(
                ((order > self.settings.order_margin) & neighbours).sum(), neighbours.sum()
            ),
        }
        return LossOutput(losses.sum(), statistics)

    def _mean(self, lacking: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Of φ over each record's places that are `which`, [n]; 0 where there are none."""
        if self.settings.kind == "hinge":
            costs = lacking.relu()
        else:
            softness = self.settings.softness
            costs = torch.nn.functional.softplus(lacking / softness) * softness
        costs = torch.where(which, costs, 0)
        return costs.flatten(1).sum(dim=1) / which.flatten(1).sum(dim=1).clamp_min(1)
