"""Settings of every loss, as the tests try them; more of InfoNCE's own in test_info_nce.py."""

from mgh_ds.losses.settings import (
    AnyLossSettings,
    CosentSettings,
    DistillSettings,
    InfoNCESettings,
    LevelMarginSettings,
    ListwiseSettings,
    MatryoshkaSettings,
    TermSettings,
    WeightedSumSettings,
)

SUM = WeightedSumSettings(
    terms=[
        TermSettings(weight=1.0, loss=InfoNCESettings(temperature=0.05, symmetric=True)),
        TermSettings(weight=0.3, loss=ListwiseSettings(kind="lambda")),
        TermSettings(weight=2.0, loss=ListwiseSettings(kind="listnet", others=True)),
    ]
)
CASES: dict[str, AnyLossSettings] = {
    "weights by hardness and level": InfoNCESettings(
        temperature=0.05, hardness=4.0, level_weights=[1.0, 0.5, 2.0, 0.25]
    ),
    "listnet": ListwiseSettings(),
    "listnet, others": ListwiseSettings(others=True, gain_base=3.0),
    "listnet, gains far below 1": ListwiseSettings(gain_base=1.02),
    "lambda": ListwiseSettings(kind="lambda"),
    "lambda, gains far below 1": ListwiseSettings(kind="lambda", gain_base=1.02, others=True),
    "lambda, others": ListwiseSettings(kind="lambda", others=True),
    "wasserstein": ListwiseSettings(kind="wasserstein", temperature=0.5),
    "wasserstein, others": ListwiseSettings(kind="wasserstein", temperature=0.5, others=True),
    "wasserstein, gains far below 1": ListwiseSettings(kind="wasserstein", temperature=0.5, gain_base=1.02),
    "hinge": LevelMarginSettings(),
    "softplus": LevelMarginSettings(kind="softplus", order_weight=0.5),
    "kl": DistillSettings(),
    "margin_mse": DistillSettings(kind="margin_mse", temperature=0.5, teacher_temperature=2.0),
    "cosent": CosentSettings(),
    "angle": CosentSettings(similarity="angle"),
    "sum": SUM,
    "matryoshka": MatryoshkaSettings(dims=[8, 5, 2], weights=[1.0, 0.5, 0.25]),
    "matryoshka of a sum": MatryoshkaSettings(dims=[6, 3], loss=SUM),
}
