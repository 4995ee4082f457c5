"""What a recipe may say about its loss: a class a loss, and where the loss itself is.

Imports nothing heavy, so that what is wrong with a recipe is said before torch is loaded.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from mgh_ds.common.settings import Settings
from mgh_ds.records.levels import LEVELS

Needs = Literal["levels", "scores", "pair_scores"]
NEEDS: dict[Needs, str] = {
    "levels": "a negative with a level",
    "scores": "a score for the positive and for each of its negatives",
    "pair_scores": "a score for the positive",
}
"""What a loss may need of a record, in words."""


class LossSettings(Settings):
    """The part of a recipe that a loss reads: `training.loss`. Each loss has its own, with its `name`."""

    name: str

    needs: ClassVar[Needs | None] = None
    """What a record must have for the loss to learn anything from it."""
    guided: ClassVar[bool] = False
    """Whether the loss has candidates that a guide may mask."""

    def model_post_init(self, _context: Any) -> None:
        # Which loss it is counts as said, so that a stage's loss is written with its name at every depth.
        self.model_fields_set.add("name")

    def parts(self) -> list["LossSettings"]:
        """The losses that this one is made of; itself, if it is one."""
        return [self]


class InfoNCESettings(LossSettings):
    """`training.loss` for InfoNCE."""

    guided = True

    name: Literal["info_nce"] = "info_nce"
    """Cross-entropy of a query's positive among all that the query sees."""
    temperature: float = Field(default=0.02, gt=0)
    """Divides the cosines; 0.02 is a cosine scale of 50."""
    own_negatives_only: bool = False
    """A query sees its own record's graded negatives and every positive, but not the graded negatives of
    other records."""
    symmetric: bool = False
    """Records of symmetric tasks are also trained from the positive back to the query."""
    false_negative_margin: float | None = Field(default=None, ge=-2, le=2)
    """Candidates whose cosine exceeds the positive's by more than this are masked as probable positives; null
    masks identical texts only."""
    hardness: float = Field(default=0.0, ge=0)
    """A candidate weighs exp(hardness · cosine) in the sum (arXiv 2503.04812); 0: all weigh the same."""
    level_weights: list[Annotated[float, Field(ge=0)]] | None = None
    """How much a query's own negatives weigh in the sum, a number for each level, the easiest first; null: as
    everything else, 1."""

    @model_validator(mode="after")
    def _a_weight_a_level(self) -> Self:
        if self.level_weights is not None:
            _check_one_a_level("level_weights", self.level_weights)
        return self


class GuideSettings(Settings):
    """`training.guide`: a frozen model that masks probable positives among what a query of InfoNCE sees
    (GISTEmbed, arXiv 2402.16829)."""

    name_or_path: str
    """A model, as in `model.name_or_path`, or an export or run of mgh-ds. It reads texts as they are, or
    under their tasks' instructions if it is such an export and was trained with them."""
    margin: float = Field(default=0.0, ge=-2, le=2)
    """A candidate is masked where the guide's cosine of it and the query exceeds that of positive and query
    less this: more masks more."""
    own_negatives: bool = False
    """Also mask a query's own negatives. These were made or chosen to be near the positive, and have levels
    that say how near: to mask the nearest would undo the levels."""


class ListwiseSettings(LossSettings):
    """`training.loss` for list-wise losses: a query's positive and its own graded negatives are a list whose
    order is to be learnt."""

    needs = "levels"

    name: Literal["listwise"] = "listwise"
    """A query's own documents, scored against what their levels say of their relevance."""
    kind: Literal["listnet", "lambda", "wasserstein"] = "listnet"
    """listnet: cross-entropy to graded targets. lambda: pairs, weighted by what their exchange costs of nDCG.
    wasserstein: distance of the scores' distribution over the batch to that of the targets."""
    temperature: float = Field(default=0.05, gt=0)
    """Divides the cosines."""
    gain_base: float = Field(default=2.0, gt=1, le=100)
    """A document of relevance r has the gain gain_base^r − 1: a negative's relevance is its level, the
    positive's one more than the hardest level, 0 for an ungraded one."""
    others: bool = False
    """The other records' documents are in the list as well, at relevance 0."""


class LevelMarginSettings(LossSettings):
    """`training.loss` for margins by level."""

    needs = "levels"

    name: Literal["level_margin"] = "level_margin"
    """The positive stands above a negative by its level's margin, and harder negatives above easier ones."""
    margins: list[Annotated[float, Field(ge=0, le=2)]] = Field(default=[0.4, 0.3, 0.2, 0.1])
    """Least distance of the positive's cosine to a negative's, a number for each level, the easiest first."""
    order_margin: float = Field(default=0.05, ge=0, le=2)
    """Least distance of the cosines of a query's negatives of neighbouring levels, the harder one above."""
    order_weight: float = Field(default=1.0, ge=0)
    """Of the order among negatives; 0: only the distance to the positive counts."""
    kind: Literal["hinge", "softplus"] = "hinge"
    """hinge: what is wide enough costs nothing. softplus: its smooth form."""
    softness: float = Field(default=0.05, gt=0)
    """For softplus: how wide its bend is, in cosines."""

    @model_validator(mode="after")
    def _a_margin_a_level(self) -> Self:
        _check_one_a_level("margins", self.margins)
        return self


class DistillSettings(LossSettings):
    """`training.loss` for a teacher's scores."""

    needs = "scores"

    name: Literal["distill"] = "distill"
    """A query's own documents are scored as a teacher scored them; the scores are in the records."""
    kind: Literal["kl", "margin_mse"] = "kl"
    """kl: the distribution over the query's documents. margin_mse: the distances of its negatives to its
    positive."""
    temperature: float = Field(default=0.05, gt=0)
    """Divides the cosines."""
    teacher_temperature: float = Field(default=1.0, gt=0)
    """Divides the teacher's scores."""


class CosentSettings(LossSettings):
    """`training.loss` for graded pairs, such as those of STS."""

    needs = "pair_scores"

    name: Literal["cosent"] = "cosent"
    """Pairs with a higher score shall be nearer to each other than pairs with a lower one, over the batch."""
    temperature: float = Field(default=0.05, gt=0)
    """Divides the similarities."""
    similarity: Literal["cosine", "angle"] = "cosine"
    """angle: of complex numbers, as in AnglE, which stays steep where the cosine is flat."""


SingleLossSettings = Annotated[
    InfoNCESettings | ListwiseSettings | LevelMarginSettings | DistillSettings | CosentSettings,
    Field(discriminator="name"),
]


class TermSettings(Settings):
    """One loss of a sum."""

    weight: float = Field(default=1.0, gt=0)
    """What it is multiplied by."""
    loss: SingleLossSettings = InfoNCESettings()
    """The loss, by its `name`, and what it may be told."""


class WeightedSumSettings(LossSettings):
    """`training.loss` for several losses at once."""

    name: Literal["sum"] = "sum"
    """Several losses, each times its weight."""
    terms: list[TermSettings] = Field(default=[TermSettings()], min_length=1)
    """The losses, each with its weight."""

    def parts(self) -> list[LossSettings]:
        return [term.loss for term in self.terms]


class MatryoshkaSettings(LossSettings):
    """`training.loss` for embeddings that may be cut short."""

    name: Literal["matryoshka"] = "matryoshka"
    """A loss on the first dimensions of the embeddings, for several widths at once."""
    dims: list[Annotated[int, Field(gt=0)]] = Field(default=[768, 512, 256, 128, 64], min_length=1)
    """The widths, widest first; none exceeds the model's."""
    weights: list[Annotated[float, Field(gt=0)]] | None = None
    """What each width's loss is multiplied by; null: 1."""
    loss: Annotated[
        InfoNCESettings
        | ListwiseSettings
        | LevelMarginSettings
        | DistillSettings
        | CosentSettings
        | WeightedSumSettings,
        Field(discriminator="name"),
    ] = InfoNCESettings()
    """The loss, by its `name`, and what it may be told."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if sorted(set(self.dims), reverse=True) != self.dims:
            raise ValueError(f"dims must fall, each named once, found {', '.join(map(str, self.dims))}")
        if self.weights is not None and len(self.weights) != len(self.dims):
            raise ValueError(
                f"weights has {len(self.weights)} numbers for {len(self.dims)} dims: name one for each"
            )
        angled = any(isinstance(part, CosentSettings) and part.similarity == "angle" for part in self.parts())
        if angled and (odd := [width for width in self.dims if width % 2]):
            raise ValueError(
                f"dims must be even for similarity angle, which reads two halves, found {odd[0]}"
            )
        return self

    def parts(self) -> list[LossSettings]:
        return self.loss.parts()


EveryLoss = (
    InfoNCESettings
    | ListwiseSettings
    | LevelMarginSettings
    | DistillSettings
    | CosentSettings
    | WeightedSumSettings
    | MatryoshkaSettings
)
AnyLossSettings = Annotated[EveryLoss, Field(discriminator="name")]
LOSSES: dict[type[LossSettings], str] = {
    InfoNCESettings: "mgh_ds.losses.info_nce:InfoNCE",
    ListwiseSettings: "mgh_ds.losses.listwise:Listwise",
    LevelMarginSettings: "mgh_ds.losses.level_margin:LevelMargin",
    DistillSettings: "mgh_ds.losses.distill:Distill",
    CosentSettings: "mgh_ds.losses.cosent:Cosent",
    WeightedSumSettings: "mgh_ds.losses.weighted_sum:WeightedSum",
    MatryoshkaSettings: "mgh_ds.losses.matryoshka:Matryoshka",
}


def _check_one_a_level(key: str, numbers: list[float]) -> None:
    if len(numbers) != len(LEVELS):
        raise ValueError(f"{key} has {len(numbers)} numbers for {len(LEVELS)} levels: name one for each")
