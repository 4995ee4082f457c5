"""Distillation: a query's documents are scored as a teacher scored them.

Over the documents j of a record with cosines s_j and teacher's scores t_j, the positive being 0:

    kl            Σ_j y_j (log y_j − log softmax(s / τ)_j)             y = softmax(t / τ_t)
    margin_mse    mean_{j>0} ((s_0 − s_j) / τ − (t_0 − t_j) / τ_t)²

kl: Hinton et al., "Distilling the knowledge in a neural network", 2015. margin_mse: Hofstätter et al.,
"Improving efficient neural ranking models with cross-architecture knowledge distillation", 2020.
"""

import torch

from mgh_ds.losses.base import Labels, Loss, LossOutput, Ratio
from mgh_ds.losses.settings import DistillSettings


class Distill(Loss):
    """The formulas above, over the documents that have a score; a record whose positive has none, or none of
    whose negatives has one, counts for nothing. Statistics: `agreement`, of its pairs of documents that the
    teacher tells apart, those that the model puts in the same order."""

    settings: DistillSettings

    def __call__(self, embeddings: torch.Tensor, labels: Labels) -> LossOutput:
        settings = self.settings
        cosines = torch.einsum("nd,nkd->nk", embeddings[:, 0], embeddings[:, 1:])
        there = labels.document_valid & labels.scores.isfinite()
        there &= (labels.valid & there[:, 0] & there[:, 1:].any(dim=1))[:, None]
        student = cosines / settings.temperature
        teacher = torch.where(there, labels.scores, 0).to(student.dtype) / settings.teacher_temperature
        if settings.kind == "kl":
            losses = _divergence(student, teacher, there)
        else:
            missing = (student[:, :1] - student) - (teacher[:, :1] - teacher)
            squares = torch.where(there[:, 1:], missing[:, 1:].square(), 0)
            losses = squares.sum(dim=1) / there[:, 1:].sum(dim=1).clamp_min(1)
        above = teacher[:, :, None] > teacher[:, None]
        pairs = above & there[:, :, None] & there[:, None]
        right = pairs & (student[:, :, None] > student[:, None])
        return LossOutput(losses.sum(), {"agreement": Ratio(right.sum(), pairs.sum())})


def _divergence(student: torch.Tensor, teacher: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Divergence of the student from the teacher over the places that are `there`, [n]."""
    least = torch.finfo(student.dtype).min
    wanted, found = (part.masked_fill(~there, least).log_softmax(dim=1) for part in (teacher, student))
    return torch.where(there, wanted.exp() * (wanted - found), 0).sum(dim=1)
