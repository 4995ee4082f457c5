"""Tables: what stands in them, and when published figures may stand beside ours."""

import dataclasses
import io
from typing import Any

import pytest
from rich.console import Console

from mgh_ds.common.score_tables import COMPARISON_HEADER, comparisons, markdown_table
from mgh_ds.evaluation.results import EvaluationResult
from mgh_ds.evaluation.tables import (
    comparison_table,
    published,
    results_markdown,
    results_table,
)
from mgh_ds.model.weights import MINILM_SHA256


def result(label: str = "before", **changes: Any) -> EvaluationResult:
    made = EvaluationResult(
        label=label,
        model="sentence-transformers/all-MiniLM-L6-v2",
        pooling="mean",
        tasks={
            "STS17": {"metric": "cosine_spearman", "score": 0.87588, "subsets": ["en-en"]},
            "NFCorpus": {"metric": "ndcg_at_10", "score": 0.3159, "subsets": ["default"]},
        },
        levels={
            "1": {"accuracy": 0.9, "margin": 0.4, "count": 10},
            "4": {"accuracy": 0.25, "margin": -0.1, "count": 8},
        },
        settings={"max_length": 256, "instructions": False, "versions": {"mteb": "2.26"}},
    )
    return dataclasses.replace(made, **changes)


def comparison(before: EvaluationResult, after: EvaluationResult) -> str:
    """As Markdown, as it stands in a model's card."""
    return markdown_table(COMPARISON_HEADER, [row.cells() for row in comparisons(vars(before), vars(after))])


def rendered(table: object) -> str:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def test_results_stand_beside_published_figures() -> None:
    table = results_markdown(result())
    assert "| STS17 (en-en) | Spearman | 87.59 | 87.59 | +0.00 |" in table
    assert "| NFCorpus | nDCG@10 | 31.59 | – | – |" in table
    assert "at most 256 tokens, instructions off; mteb 2.26" in table
    assert "87.59" in rendered(results_table(result()))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "intfloat/e5-small"},
        {"fingerprint": {"weights": {"model.safetensors": "0" * 64}}},
        {"pooling": "ata"},
        {"settings": {"max_length": 512, "instructions": False}},
        {"settings": {"max_length": 256, "instructions": True}},
    ],
)
def test_other_settings_have_no_published_figures(changes: dict[str, Any]) -> None:
    assert published(result()) == {"STS17": 87.59}
    assert published(result(**changes)) == {}
    assert "published" not in results_markdown(result(**changes))


def test_the_published_weights_have_published_figures() -> None:
    made_of = {"weights": {"model.safetensors": MINILM_SHA256, "config.json": "0" * 64}}
    assert published(result(fingerprint=made_of)) == {"STS17": 87.59}


def test_comparison_shows_before_after_and_change() -> None:
    after = result(
        "after",
        tasks={"STS17": {"metric": "cosine_spearman", "score": 0.88088}},
        levels={"4": {"accuracy": 0.5, "margin": 0.1, "count": 8}},
    )
    table = comparison(result(), after).splitlines()
    assert table == [
        "| held-out score | before | after | change |",
        "| --- | ---: | ---: | ---: |",
        "| STS17, Spearman | 87.59 | 88.09 | +0.50 |",
        "| positive above negatives of level 4 | 25.00 | 50.00 | +25.00 |",
    ]
    text = rendered(comparison_table(result(), after))
    assert "+25.00" in text
    assert "level 4" in text


def test_no_change_has_no_minus_sign() -> None:
    after = result(tasks={"STS17": {"metric": "cosine_spearman", "score": 0.875879}}, levels={})
    assert "| +0.00 |" in comparison(result(), after)
