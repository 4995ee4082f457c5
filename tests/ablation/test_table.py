"""The table from scores made up by hand."""

import dataclasses
from typing import Any

import pytest

from mgh_ds.ablation.scores import Scores
from mgh_ds.ablation.table import PAPER, check_alike, markdown, summarise
from mgh_ds.common.errors import MghError

RECIPE = {
    "name": "x",
    "folder": "runs",
    "seed": 0,
    "model": {"name_or_path": "model", "num_layers": 3, "pooling": {"method": "ata", "layers": [-1]}},
    "data": {"train": ["records"]},
    "training": {"steps": 60, "global_batch": 32},
    "evaluation": {},
    "accept_changes": [],
}


def scores(order: str, seed: int | None, pooling: str = "ata", **tasks: float) -> Scores:
    recipe = RECIPE | {"curriculum": {"stages": order}, "seed": seed, "name": f"{order}-{seed}"}
    found: Any = {
        task.replace("_", "-"): {"metric": "cosine_spearman", "score": score, "revision": "1"}
        for task, score in tasks.items()
    }
    return Scores("untrained" if seed is None else f"ablation-{order}", pooling, seed, recipe, "hash", found)


CELLS = [
    scores("all", None, STS17=0.2, SICK_R=0.4),
    scores("fine_to_coarse", 0, STS17=0.5, SICK_R=0.7, SciFact=0.3),
    scores("fine_to_coarse", 1, STS17=0.6, SICK_R=0.6),
    scores("coarse_to_fine", 0, STS17=0.8, SICK_R=0.6),
    scores("coarse_to_fine", 1, STS17=0.6, SICK_R=0.7),
    scores("all", 0, STS17=0.9, SICK_R=0.9),
    scores("level-2", 0, "mean", STS17=0.1, SICK_R=0.3),
]


def graded(cell: Scores, *levels: tuple[float, float]) -> Scores:
    """With accuracy and margin of level 1, 2, …"""
    found: Any = {
        str(level): {"accuracy": accuracy, "margin": margin, "count": 10}
        for level, (accuracy, margin) in enumerate(levels, 1)
    }
    hardest = {"metric": "accuracy", "score": levels[-1][0], "revision": "1", "levels": found}
    return dataclasses.replace(cell, tasks=cell.tasks | {"HardNegatives": hardest})


def test_each_level_has_its_accuracy_and_margin() -> None:
    table = summarise(
        [
            graded(scores("all", None, STS17=0.5), (0.9, 0.3), (0.4, -0.1)),
            graded(scores("random", 0, STS17=0.5), (0.9, 0.2), (0.5, -0.2)),
            graded(scores("random", 1, STS17=0.5), (0.7, 0.4), (0.5, 0.0)),
            scores("level-2", 0, STS17=0.1),
        ],
        "ablation-random",
    )
    found = table["poolings"]["ata"]
    assert found["untrained_levels"]["untrained"]["2"]["margin"]["mean"] == pytest.approx(-10)
    rows = {row["row"]: row["levels"] for row in found["rows"]}
    assert rows["ablation-level-2"] == {}
    assert rows["ablation-random"]["1"]["accuracy"]["values"] == pytest.approx((90, 70))
    assert rows["ablation-random"]["2"]["margin"]["mean"] == pytest.approx(-10)
    section = markdown(table).split("mean distance to its:")[1]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert lines[0] == "| recipe | level 1 | level 2 | level 1, margin | level 2, margin |"
    assert lines[2] == "| untrained | 90.0 | 40.0 | 30.0 | -10.0 |"
    assert lines[3].startswith("| ablation-random | 80.0 ± 127.1 | 50.0 ± 0.0 | 30.0 ± 127.1 | -10.0 ± ")
    assert len(lines) == 4, "nothing is known of the other row"


def test_means_and_paired_differences() -> None:
    table = summarise(CELLS)
    assert table["mean_of"] == ["STS17", "SICK-R"], "SciFact is not common to all"
    rows = {row["row"]: row for row in table["poolings"]["ata"]["rows"]}
    assert list(rows) == ["ablation-coarse_to_fine", "ablation-fine_to_coarse", "ablation-all"], (
        "paper's order"
    )
    best, last = rows["ablation-coarse_to_fine"], rows["ablation-fine_to_coarse"]
    assert best["scores"]["STS17"]["mean"] == pytest.approx(70)
    assert best["scores"]["mean"]["mean"] == pytest.approx((70 + 65) / 2)
    assert best["differences"]["mean"] is None
    # By seed: 60 − 70 and 60 − 65.
    assert last["differences"]["mean"]["mean"] == pytest.approx(-7.5)
    assert last["differences"]["mean"]["half_width"] == pytest.approx(12.7062 * 2.5, rel=1e-5)
    assert rows["ablation-all"]["differences"]["mean"] == {
        "mean": pytest.approx(20),
        "half_width": None,
        "seeds": 1,
        "values": pytest.approx((20,)),
    }
    assert table["poolings"]["ata"]["untrained"] == {
        "untrained": pytest.approx({"STS17": 20, "SICK-R": 40, "mean": 30})
    }
    assert table["poolings"]["mean"]["rows"][0]["differences"]["mean"] is None, (
        "no coarse_to_fine with this pooling"
    )


def test_the_markdown_shows_what_there_is() -> None:
    lines = markdown(summarise(CELLS)).splitlines()
    assert "model, its first 3 layers; 60 steps of 32 records." in lines
    assert "| untrained |  |  | 20.00 | 40.00 |  | 30.00 |  |" in lines
    assert "| all | not in it | 1 | 90.00 | 90.00 |  | 90.00 | +20.00 |" in lines
    [last] = [line for line in lines if line.startswith("| fine_to_coarse | 7 | 2 |")]
    assert "| 30.00 (1 of 2 seeds) |" in last
    assert "| -7.50 ± 31.77 |" in last
    assert lines.count("Too few orders to compare their ranking with the paper's.") == 2


def test_the_ranking_is_held_against_the_papers() -> None:
    in_its_order = [scores(order, 0, STS17=1 - place / 10) for order, place in PAPER.items()]
    agreed = summarise(in_its_order)["poolings"]["ata"]["agreement"]
    reverse = [scores(order, 0, STS17=place / 10) for order, place in PAPER.items()]
    assert agreed["tau"] == pytest.approx(1)
    assert agreed["items"] == 7
    assert summarise(reverse)["poolings"]["ata"]["agreement"]["tau"] == pytest.approx(-1)
    assert "over 7 orders: Kendall's τ = 1.00" in markdown(summarise(in_its_order))


def test_cells_of_one_table_are_alike() -> None:
    check_alike(CELLS)
    other = scores("random", 0)
    other.recipe["training"] = {"steps": 61, "global_batch": 32}
    with pytest.raises(MghError, match=r"cannot share a table; differing: training.steps: 60 → 61"):
        check_alike([*CELLS, other])


def test_cells_of_two_backbones_share_no_table() -> None:
    """Under one name; a cell that does not know its backbone shares it with any."""
    ones = [dataclasses.replace(cell, backbone={"model.safetensors": "1"}) for cell in CELLS]
    check_alike([*ones, CELLS[-1]])
    other = dataclasses.replace(ones[-1], backbone={"model.safetensors": "2"})
    with pytest.raises(MghError, match=r"differing: backbone\.model\.safetensors: 1 → 2"):
        check_alike([*ones, other])


def test_keys_that_are_named_may_differ() -> None:
    other = dataclasses.replace(CELLS[-1], recipe={**CELLS[-1].recipe, "training": {"steps": 61}})
    with pytest.raises(MghError, match=r"training\.steps"):
        check_alike([*CELLS, other], ["training.global_batch"])
    check_alike([*CELLS, other], ["training"])
    check_alike([*CELLS, other], ["training.global_batch", "training.steps"])


def test_adapters_that_vary_are_another_backbone() -> None:
    ones = [dataclasses.replace(cell, backbone={"model.safetensors": "1"}) for cell in CELLS]
    model = ones[1].recipe["model"] | {"adapters": ["runs/x"]}
    below = {"model.safetensors": "1", "adapter-1": "2"}
    other = dataclasses.replace(ones[1], recipe=ones[1].recipe | {"model": model}, backbone=below)
    check_alike([*ones, other], ["model.adapters"])
    with pytest.raises(MghError, match="backbone"):
        check_alike([*ones, other], ["model.pooling"])


def test_one_poolings_cells_agree_in_its_settings() -> None:
    model = RECIPE["model"] | {"pooling": {"method": "ata", "layers": [0]}}
    other = dataclasses.replace(CELLS[1], recipe=CELLS[1].recipe | {"model": model})
    with pytest.raises(MghError, match=r"differing: model\.pooling\.layers"):
        check_alike([*CELLS, other])
    check_alike([*CELLS, dataclasses.replace(other, pooling="ata+log1p")])


def test_a_row_of_ones_own_is_the_reference() -> None:
    table = summarise(CELLS, "ablation-all")
    rows = table["poolings"]["ata"]["rows"]
    assert [row["row"] for row in rows] == [
        "ablation-all",
        "ablation-coarse_to_fine",
        "ablation-fine_to_coarse",
    ]
    assert rows[0]["differences"] == dict.fromkeys(["STS17", "SICK-R", "mean"])
    assert rows[1]["differences"]["mean"]["mean"] == pytest.approx(-20)
    assert "`difference` is that of the means to `ablation-all`" in markdown(table)
    lines = [
        line for line in markdown(table).splitlines() if line.startswith("| ablation-coarse_to_fine | -")
    ]
    one = "(1 of 2 seeds)"
    expected = f"| ablation-coarse_to_fine | -10.00 {one} | -30.00 {one} |  | -20.00 {one} |"
    assert lines == [expected], "no SciFact"
