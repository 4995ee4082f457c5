"""What is known of texts beside their vectors when one is scored against another: which are the same, and
which belong together.

A key is int64 [4]: hash of the text, hash of its partner (a document's query, a query's positive), negative
group, and standing: a graded or ungraded negative's level, or `POSITIVE`.
"""

import torch

from mgh_ds.losses.base import Labels

NO_GROUP = -1  # of an empty place among the candidates
NOBODY = -2  # of a record that does not take part as a query: it sees no candidate
POSITIVE = -1  # standing of a query's positive, and of a positive's query


def document_keys(labels: Labels) -> torch.Tensor:
    """Of documents as candidates, int64 [n, 1 + K, 4]."""
    hashes = labels.document_hash
    standing = torch.nn.functional.pad(labels.levels, (1, 0), value=POSITIVE)
    group = torch.where(labels.document_valid, labels.group[:, None], NO_GROUP)
    return torch.stack([hashes, labels.query_hash[:, None].expand_as(hashes), group, standing], dim=-1)


def query_keys(labels: Labels) -> torch.Tensor:
    """Of queries as candidates on the way back, from positives to them, int64 [n, 4]."""
    group = torch.where(labels.valid, labels.group, NO_GROUP)
    standing = torch.full_like(group, POSITIVE)
    return torch.stack([labels.query_hash, labels.document_hash[:, 0], group, standing], dim=-1)


def pair_keys(labels: Labels, which: torch.Tensor, *, back: bool = False) -> torch.Tensor:
    """Of queries and the targets that they have to find, int64 [n, 3]: hash of the query, hash of the target,
    negative group; on the way `back`, of positives and their queries. Records that are not `which`, bool
    [n], see nobody: to select them would make the host wait for their number."""
    query, target = (1, 0) if back else (0, 1)
    hashes = labels.query_hash, labels.document_hash[:, 0]
    group = torch.where(which, labels.group, NOBODY)
    return torch.stack([hashes[query], hashes[target], group], dim=-1)


def visibility(pairs: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which candidates a query sees, being of its group, and which of all it must not be told apart from:
    identical texts, and another answer to the same question.

    Args:
        pairs: int64 [n, 3].
        candidates: int64 [c, 4] or [n, c, 4].

    Returns two bool [n, c].
    """
    text, partner, group, standing = candidates.unbind(dim=-1)
    query, target, own_group = (key[:, None] for key in pairs.unbind(dim=-1))
    same = (text == query) | (text == target) | ((partner == query) & (standing == POSITIVE))
    return group == own_group, same
