"""Masked next-token prediction (BehnamGhader et al., "LLM2Vec: large language models are secretly powerful
text encoders", 2024, section 2.2).

    loss = − 1/M Σ_i log softmax(W h_{i−1})_{x_i}

over the M masked places i of the global batch: as in a decoder's own training, token x_i is predicted from
the state before it, but that state has seen the whole text, in which x_i is masked. W is the decoder's output
head, which stays as it is.

M is known only when texts are tokenised, so the ranks add it up before the first micro-batch: one collective
more than a contrastive step has, of one number, for which no host waits. There is nothing else that the
micro-batches must know of each other, so each goes forward and back alone.
"""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum.loader import MicroBatch
from mgh_ds.curriculum.stages import Stage
from mgh_ds.distributed.group import all_sum, world_size
from mgh_ds.distributed.sums import Sums
from mgh_ds.losses.cross_entropy import cross_entropy
from mgh_ds.model.output_head import check_output_head, output_head
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.model.weights import resolve_model
from mgh_ds.training.batch import Size
from mgh_ds.training.config import RunConfig
from mgh_ds.training.masking import MaskedBatch, Masking
from mgh_ds.training.objective import Objective
from mgh_ds.training.objectives import MntpSettings
from mgh_ds.training.step import Notes, Pending, StepResult, apply_gradient

STATISTICS = ("masked_accuracy", "masked_share")


class Mntp:
    """Implements `Objective`. Statistics: `masked_accuracy`, how many masked tokens are guessed right, and
    `masked_share`, of all tokens.

    Raises MghError for a backbone that is no decoder or lacks its head, and for a mask token that its
    tokenizer does not know.
    """

    def __init__(self, config: RunConfig) -> None:
        settings = config.training.objective
        assert isinstance(settings, MntpSettings)
        self.folder = resolve_model(config.model.name_or_path)
        check_output_head(self.folder)
        self.masking = Masking(settings, _mask_id(self.folder, config), config.seed)
        self.identity: dict[str, Any] = {}
        self._head: torch.Tensor | None = None

    def make_batch(self, texts: MicroBatch, tokenizer: Tokenizer, step: int) -> MaskedBatch:
        return self.masking.masked(texts, tokenizer, step)

    def train_step(
        self, engine: Any, batches: Sequence[MaskedBatch], records: int, _stage: Stage, notes: Notes = dict
    ) -> StepResult:
        return apply_gradient(engine, self.accumulate_gradient(engine, batches, records, notes))

    def accumulate_gradient(
        self, engine: Any, batches: Sequence[MaskedBatch], records: int, notes: Notes = dict
    ) -> Pending:
        """As `training.step.accumulate_gradient`: afterwards the engine holds the gradient of the mean over
        all masked places of the global batch."""
        if records == 0:
            raise MghError(
                "a global batch without a single record: the plan and the store do not fit together"
            )
        engine.train()
        head, own = self._output_head(engine.module.backbone), sum(len(batch.places) for batch in batches)
        masked = all_sum(torch.tensor(own, dtype=torch.float64, device=head.device))
        scale = (world_size() / masked.clamp_min(1)).float()
        parts = []
        with contextlib.nullcontext() if len(batches) == 1 else engine.coalesce_grad_reduction():
            for batch in batches:
                total, correct, finite = _losses(engine, batch, head)
                # As in a contrastive step: what is no number makes every gradient none, on all ranks.
                sound = finite.all() & total.detach().isfinite()
                engine.backward(total * torch.where(sound, scale, math.nan))
                parts.append((total.detach().double(), correct.double(), finite))
        totals, hits, finites = zip(*parts, strict=True)
        size, finite = Size.total(batch.size for batch in batches), torch.cat(finites)
        statistics = torch.tensor([[0, own], [own, size.tokens]], dtype=torch.float64).to(head.device)
        statistics[0, 0] = torch.stack(hits).sum()
        figures = {
            "loss": torch.stack(totals).sum(),
            "not_finite": (~finite).sum(),
            "levels": statistics.new_zeros(0, 3),
            "statistics": statistics,
        }
        of_rank = Objective(figures["loss"], figures, STATISTICS, finite)
        return Pending(Sums({**figures, "terms": own, **size._asdict(), **notes()}), records, of_rank)

    def _output_head(self, backbone: Any) -> torch.Tensor:
        if self._head is None or backbone.config.tie_word_embeddings:  # where the table may be trained
            self._head = output_head(self.folder, backbone)
        return self._head


def _losses(
    engine: Any, batch: MaskedBatch, head: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum of a micro-batch's losses, with gradient; how many tokens are guessed right; and bool [m], whether
    the states that its records are predicted from are finite."""
    torch.manual_seed(batch.seed & 0x7FFFFFFFFFFFFFFF)
    states = engine(batch.tokens, batch.places - 1)
    total, correct = cross_entropy(states, head, batch.targets)
    wrong = (~states.detach().isfinite()).any(dim=1)
    finite = torch.zeros(len(batch.ids), device=head.device).index_add_(0, batch.owners, wrong.float()) == 0
    return total, correct, finite


def _mask_id(folder: Path, config: RunConfig) -> int:
    """The number of the mask token. Raises MghError if the tokenizer of the model in `folder` has none."""
    settings = config.training.objective
    assert isinstance(settings, MntpSettings)
    backend = Tokenizer.from_pretrained(folder, max_length=config.model.max_length).backend
    vocabulary = backend.get_vocab()
    known = vocabulary.get(settings.mask_token)
    # A byte-level vocabulary spells what is not ASCII in characters of its own: its "é" is half a character.
    if known is not None and "\N{REPLACEMENT CHARACTER}" not in backend.decode([known]):
        return int(known)
    encoded = backend.encode(settings.mask_token, add_special_tokens=False)
    if len(encoded) != 1 or backend.decode(encoded) != settings.mask_token:
        example = backend.mask_token or next((token for token in ("_", ".", "#") if token in vocabulary), "")
        raise MghError(
            f"training.objective.mask_token: the tokenizer of {config.model.name_or_path} has no token "
            f"{settings.mask_token!r}; name one that it has{f', such as {example!r}' if example else ''}"
        )
    return int(encoded[0])
