"""The retrieval browser: what it shows, of which queries, and of a run that has but a part of it."""

import json
import math
from pathlib import Path

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.report.data import WeightedText, load_run
from mgh_ds.report.page import write_report
from mgh_ds.report.retrieval import Item, chosen, retrieval_browser
from mgh_ds.report.token_weights import heat_map
from tests.report.conftest import keep_retrieved
from tests.report.test_page import EVIL, Page, page_of


def item(name: str, before: int | None, after: int | None) -> Item:
    return Item(name, None, (before, after), None, None)


def change_in_file(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_shown_are_those_that_rose_and_fell_most_and_some_that_stayed():
    risen = [item(f"up {n}", n, 1) for n in range(2, 10)]
    fallen = [item(f"down {n}", 1, n) for n in range(2, 10)]
    kept = [item(f"same {n}", n, n) for n in range(1, 9)]
    names = [each.query for each in chosen([*kept, *fallen, *risen])]
    assert names == [
        *(f"up {n}" for n in (9, 8, 7, 6, 5)),
        *(f"down {n}" for n in (9, 8, 7, 6)),
        *(f"same {n}" for n in (1, 2, 3)),
    ]
    assert [each.query for each in chosen([*fallen, *kept])] == [
        *(f"down {n}" for n in range(9, 1, -1)),
        *(f"same {n}" for n in range(1, 5)),
    ], "others take the room that is left"
    assert len(chosen(kept)) == 8
    assert item("", 60, 6).change == pytest.approx(item("", 10, 1).change)
    assert item("", None, 6).change == 0


def test_the_browser_puts_before_and_after_side_by_side(browsed_run):
    shown = retrieval_browser(load_run(browsed_run))
    assert shown is not None
    assert (shown.kept, shown.documents, len(shown.items)) == (4, 40, 4)
    first = shown.items[0]
    assert (first.ranks, first.change) == ((9, 1), math.log(9))
    assert first.before is not None
    assert first.after is not None
    assert [(d.rank, d.kind, d.level, d.elsewhere, d.after_gap) for d in first.before.documents] == [
        (1, "negative", 4, 2, False),
        (2, "other", None, None, False),
        (9, "positive", None, 1, True),
    ]
    assert first.before.first == 2
    assert [(d.rank, d.elsewhere) for d in first.after.documents] == [(1, 9), (2, 1), (3, None)]


def test_the_page_says_rank_kind_level_and_movement(browsed_run):
    page = page_of(browsed_run)
    assert len(page.all("input", type="radio", name="query")) == 4
    assert sum("checked" in attrs for attrs in page.all("input")) == 1
    for words in (
        "▲ positive 9 → 1",
        "▼ positive 1 → 2",
        "= positive 1 → 1",
        "1 ✗ negative, level 4 ●●●● cos 0.900 ▼ 2 after",
        "2 – of another query cos 0.800 beyond 3 after",
        "9 ✓ positive cos 0.100 ▲ 1 after",
        "1 ✓ positive cos 0.900 ▲ 9 before",
        "negative, ungraded",
        "Read under: Find what answers",
    ):
        assert words in page.text, words
    assert [attrs["value"] for attrs in page.all("li", **{"class": "positive"})][:2] == ["9", "1"]


def test_tokens_are_coloured_where_their_weights_are_known(browsed_run):
    def coloured(folder: Path) -> int:
        return sum("--s:" in attrs.get("style", "") for attrs in page_of(folder).all("span"))

    entries = json.loads((browsed_run / "retrieved_weights.json").read_text())
    whole = coloured(browsed_run)
    (browsed_run / "retrieved_weights.json").unlink()
    assert whole - coloured(browsed_run) == sum(len(entry["tokens"]) for entry in entries) > 0
    assert "1 ✓ positive cos 0.900 ▲ 9 before the answer to 0" in page_of(browsed_run).text


def test_a_long_text_is_not_shown_whole(browsed_run):
    change_in_file(
        browsed_run / "retrieved_weights.json",
        lambda entries: entries[0].update(tokens=["word"] * 130, weights=[1 / 130] * 130),
    )
    assert page_of(browsed_run).text.count("… and 10 more tokens") == 1


def test_a_run_that_trains_shows_what_was_found_before(browsed_run):
    (browsed_run / "evaluation" / "after.json").unlink()
    page = page_of(browsed_run)
    assert page.text.count("After training: not there yet.") == 4
    assert "= positive at 9" in page.text


def test_a_run_that_keeps_nothing_of_retrieval_has_no_browser(make_run, browsed_run):
    assert "What held-out queries find" not in page_of(make_run()).text
    for name, queries in (("before", []), ("after", [{"query": "another", "found": []}])):
        change_in_file(
            browsed_run / "evaluation" / f"{name}.json",
            lambda content, queries=queries: content["retrieved"].update(queries=queries),
        )
    assert "What held-out queries find" in page_of(browsed_run).text
    change_in_file(
        browsed_run / "evaluation" / "before.json",
        lambda content: content["retrieved"].update(queries=[{"query": "a third", "found": []}]),
    )
    assert "What held-out queries find" not in page_of(browsed_run).text


def test_what_was_found_is_escaped(browsed_run):
    clean = {tag for tag, _ in page_of(browsed_run).tags}

    def spoil(content: dict) -> None:
        for query in content["retrieved"]["queries"]:
            query |= {"query": EVIL, "instruction": EVIL}
            for found in query["found"]:
                found["text"] = EVIL

    for name in ("before", "after"):
        change_in_file(browsed_run / "evaluation" / f"{name}.json", spoil)
    html = write_report(browsed_run).read_text()
    page = Page(html)
    assert {tag for tag, _ in page.tags} <= clean
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "script" not in clean
    assert page.text.count("<script>alert('x')</script>") >= 8


def test_a_file_that_breaks_its_format_is_named(browsed_run):
    change_in_file(
        browsed_run / "evaluation" / "after.json",
        lambda content: content["retrieved"]["queries"][0]["found"][0].update(rank=0),
    )
    with pytest.raises(MghError, match=r"after\.json: retrieved\.queries\.0\.found\.0\.rank"):
        write_report(browsed_run)


def test_tokens_of_bytes_are_read_as_text(browsed_run):
    tokens = ["<s>", "Ġcaf", "Ã©", "ĠðŁ", "Į", "Ĭ", "|｜"]
    weighted = WeightedText(label="before", text="", tokens=tokens, weights=[1 / 7] * 7)
    read = [token.text for token in heat_map(weighted, 2.0).tokens]
    assert read[:3] == ["<s>", "caf", "é"]
    assert read[-1] == "|｜"
    assert "\ufffd" in "".join(read), "a part of a character"

    def garble(entries: list[dict]) -> None:
        for entry in entries:
            entry["tokens"][0] = "ĠðŁ"

    change_in_file(browsed_run / "retrieved_weights.json", garble)
    page = page_of(browsed_run)
    assert "\ufffd" not in page.text
    assert "the answer to 0" in page.text


def test_the_run_of_these_tests_is_the_same_at_every_call(browsed_run):
    written = write_report(browsed_run).read_bytes()
    keep_retrieved(browsed_run)
    assert write_report(browsed_run).read_bytes() == written
