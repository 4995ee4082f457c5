"""How metrics are named and tables written."""

import pytest

from mgh_ds.common.score_tables import change, markdown_table, metric_name


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("ndcg_at_10", "nDCG@10"),
        ("map_at_1000", "MAP@1000"),
        ("cosine_spearman", "Spearman"),
        ("max_f1", "max f1"),
    ],
)
def test_metrics_are_named_as_papers_do(metric, name):
    assert metric_name(metric) == name


def test_no_change_has_no_minus_sign():
    assert [change(points) for points in (12.5, -0.301, -0.001, 0)] == ["+12.50", "-0.30", "+0.00", "+0.00"]


def test_figures_stand_on_the_right():
    assert markdown_table(["task", "score"], [["STS17", "87.59"]]) == (
        "| task | score |\n| --- | ---: |\n| STS17 | 87.59 |"
    )
