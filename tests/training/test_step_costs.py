"""A step does not wait: what one of real ranks costs beside its arithmetic is counted.

The attention's own reads are those of its path for CPUs, whose tensors are on the host.
"""

import json
from collections import Counter
from collections.abc import Callable

import pytest

from mgh_ds.losses import InfoNCESettings
from mgh_ds.training.config import RunConfig
from tests.ranks import run_ranks
from tests.training import cost_worker

Make = Callable[..., RunConfig]
RECIPES = {
    "cached, packed": {"micro_batch": 2},
    "at once, padded, every option of the loss": {
        "micro_batch": 4,
        "loss": InfoNCESettings(symmetric=True, own_negatives_only=True, false_negative_margin=0.1),
    },
    "ring": {"micro_batch": 2, "gather": "ring"},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_makes_one_sum_and_the_host_reads_it_and_the_norm(recipe: str, tiny_run: Make) -> None:
    config = tiny_run(**RECIPES[recipe])
    padded = "padded" in recipe
    if padded:
        config = config.replace(model=config.model.replace(padding_free=False))
    costs = _costs(config)
    assert _of_ours(costs, "collective") == {"distributed/sums.py": 1}
    assert _of_ours(costs, "read") == {"distributed/sums.py": 1, "training/step.py": 1}
    for kind, owner in (("collective", "ZeRO"), ("collective", "loss"), ("read", "ZeRO")):
        assert costs[kind, owner] > 0, f"the counter saw no {kind} of {owner}"
    assert costs["read", "loss"] == 0
    # Whether a padded batch has any padding; a packed one has none.
    assert bool(costs["read", "transformers"]) == padded


def test_a_skipped_step_pickles_nothing_either(tiny_run: Make) -> None:
    costs = _costs(tiny_run(), poisoned=True)
    assert _of_ours(costs, "collective") == {"distributed/sums.py": 1, "training/trainer.py": 1}


def _costs(config: RunConfig, *, poisoned: bool = False) -> Counter[tuple[str, str]]:
    outputs = run_ranks(2, cost_worker.main, config, poisoned)
    (line,) = [line for line in outputs[0].splitlines() if line.startswith("[[")]
    return Counter({(kind, whose): count for kind, whose, count in json.loads(line)})


def _of_ours(costs: Counter[tuple[str, str]], kind: str) -> dict[str, int]:
    return {whose: count for (what, whose), count in costs.items() if what == kind and whose.endswith(".py")}
