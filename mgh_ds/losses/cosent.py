"""CoSENT: graded pairs, such as those of STS, in the order of their scores.

    loss = log(1 + Σ_{y_i > y_j} exp((s_j − s_i) / τ))

over all pairs i, j of the negative group with scores y and similarities s of query and positive; each of its
records has the same share of it. s is the cosine (Su, "CoSENT", 2022), or the angle of AnglE (Li and Li,
"AnglE-optimized text embeddings", 2023, section 3.4): the halves of an embedding are real and imaginary part
of complex numbers z of the query and w of the positive, and for embeddings of unit length

    s = |Σ Re(z w̄) + Im(z w̄)|

Shapes: n records on this rank, N in all of its negative group's.
"""

import torch

from mgh_ds.losses.base import Labels, Loss, LossOutput, Ratio
from mgh_ds.losses.keys import NO_GROUP
from mgh_ds.losses.settings import CosentSettings


class Cosent(Loss):
    """The formula above, over records whose positive has a score. Statistics: `ordered_share`, of the pairs
    with different scores."""

    settings: CosentSettings

    def __call__(self, embeddings: torch.Tensor, labels: Labels) -> LossOutput:
        queries, positives = embeddings[:, 0], embeddings[:, 1]
        if self.settings.similarity == "angle":
            similarities = angle(queries, positives)
        else:
            similarities = (queries * positives).sum(dim=1)
        scores = labels.scores[:, 0]
        group = torch.where(labels.valid & scores.isfinite(), labels.group, NO_GROUP)
        all_similarities, all_scores, all_groups = map(self.exchange.gather, (similarities, scores, group))
        losses, counts = torch.zeros_like(similarities), group.new_zeros(2)
        for number in range(self.exchange.negative_groups):
            which = all_groups == number
            loss, more = _of_group(all_similarities, all_scores, which, self.settings.temperature)
            losses = losses + torch.where(group == number, loss, 0)
            counts = counts + more
        # Every rank of a group counts all of its pairs: the first speaks for them.
        ordered, pairs = counts * (self.exchange.place == 0)
        return LossOutput(losses.sum(), {"ordered_share": Ratio(ordered, pairs)})


def angle(queries: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """AnglE's similarity, [n], of embeddings [n, d] of unit length; d is even."""
    (a, b), (c, d) = queries.chunk(2, dim=1), positives.chunk(2, dim=1)
    return (a * (c - d) + b * (c + d)).sum(dim=1).abs()


def _of_group(
    similarities: torch.Tensor, scores: torch.Tensor, which: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of the records, [N], that are `which`, scalar; how many of their pairs lie in the order of
    their scores, and how many there are, int64 [2]."""
    pairs = (scores[:, None] > scores) & which[:, None] & which
    ahead = similarities[:, None] - similarities
    logits = torch.where(pairs, -ahead / temperature, float("-inf")).flatten()
    nothing = logits.new_zeros(1)
    counts = torch.stack([(pairs & (ahead > 0)).sum(), pairs.sum()])
    return torch.cat([nothing, logits]).logsumexp(dim=0), counts
