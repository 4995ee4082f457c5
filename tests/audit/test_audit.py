"""The audit on records of known structure: what was planted is found where it was, and nothing else."""

import itertools
import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mgh_ds import Encoder
from mgh_ds.audit.agreement import labelled_set
from mgh_ds.audit.composition import Cost, cost_figures
from mgh_ds.audit.cross_encoder import cross_encoder_judge
from mgh_ds.audit.false_negatives import JUDGE, KAPPA, Verdicts, no_verdicts
from mgh_ds.audit.hardness import hardness
from mgh_ds.audit.inputs import GradedRecords, StoredRecords, graded_negatives
from mgh_ds.audit.lengths import lengths
from mgh_ds.audit.margins import above_positive, margins
from mgh_ds.audit.run import audit
from mgh_ds.audit.shortcut import shortcut
from mgh_ds.audit.similarity import Similarities, measure
from mgh_ds.audit.statistics import wilson
from mgh_ds.common.errors import MghError
from mgh_ds.records.reader import read_records
from mgh_ds.records.relabelled import DROPPED, Change, Relabelled, Relabelling, notes
from mgh_ds.records.schema import Negative, Record, Task
from mgh_ds.records.store import Store, StoreWriter

SAMPLE = Path("mgh_ds/records/sample/train.jsonl")
TASK = Task(kind="asymmetric", subtype="short-short", instruction="Find the answer")
COST = Cost(accepted=80, rejected={"not_json": 15, "too_short": 5}, tokens_in=8000, tokens_out=4000)
WORDS = 12  # in every text
SCRIPT = "<script>alert(1)</script>"


def quiet(_check: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


def embed(texts: list[str]) -> np.ndarray:
    """A bag of words, hashed to 1,024 dimensions."""
    vectors = np.zeros((len(texts), 1024), np.float32)
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text):
            vectors[row, zlib.crc32(word.encode()) % 1024] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def graded_record(number: int, rng: np.random.Generator) -> Record:
    """Twelve words a text, all of six letters; the negative of level n shares 2 n of them with the positive,
    the query ten."""
    pool = iter(["".join(letters) for letters in rng.choice(list("aeiourstln"), (80, 6))])

    def text(shared: int) -> str:
        return " ".join(rng.permutation([*positive[:shared], *(next(pool) for _ in range(WORDS - shared))]))

    positive: list[str] = [next(pool) for _ in range(WORDS)]
    return Record(
        id=f"r{number:04}",
        task=TASK,
        language="en",
        query=text(10),
        positive=" ".join(positive),
        negatives=[Negative(text=text(2 * level), level=level) for level in (4, 3, 2, 1)],
        source={"dataset": "made", "domain": f"domain {number % 3}"},
    )


def graded_records(count: int) -> list[Record]:
    rng = np.random.default_rng(5)
    return [graded_record(number, rng) for number in range(count)]


def with_negatives(record: Record, change: Callable[[int, str], str]) -> Record:
    """The record with each negative's text changed, knowing its level."""
    changed = [n.model_copy(update={"text": change(n.level or 0, n.text)}) for n in record.negatives]
    return record.model_copy(update={"negatives": changed})


def shuffled(record: Record, rng: np.random.Generator) -> Record:
    """The record with its levels assigned to its negatives at random."""
    assigned = rng.permutation(4).tolist()
    texts = graded_negatives(record)
    return with_negatives(record, lambda level, _text: texts[assigned[level - 1]])


def similarities(records: Sequence[Record]) -> Similarities:
    return measure(records, np.arange(len(records)), embed, quiet)


def measured_hardness(records: Sequence[Record]) -> dict[str, Any]:
    return hardness(similarities(records), np.random.default_rng(0))


def probed(records: Sequence[Record]) -> dict[str, Any]:
    return shortcut(records, np.random.default_rng(0), quiet)


def holds(figure: dict[str, float], value: float) -> bool:
    return figure["low"] <= value <= figure["high"]


def test_graded_negatives_are_found_in_order_and_the_control_is_at_chance() -> None:
    found = measured_hardness(graded_records(200))
    for target in ("positive", "query"):
        asked, permuted = found[target]["asked"], found[target]["permuted"]
        means = list(asked["mean"].values())
        for lower, higher in itertools.pairwise(means):
            assert lower["high"] < higher["low"]
        assert asked["tau"]["low"] > 0.8
        assert asked["pair_accuracy"]["low"] > 0.9
        assert asked["ordered"]["low"] > 0.6
        for name, chance in found["chance"].items():
            assert holds(permuted[name], chance), (target, name)
    diagonal = [found["confusion"][level][level] for level in range(4)]
    assert min(diagonal) > 80
    assert np.sum(found["confusion"], axis=1) == pytest.approx([100] * 4, abs=1e-4)


def test_levels_assigned_at_random_have_no_order() -> None:
    rng = np.random.default_rng(3)
    found = measured_hardness([shuffled(record, rng) for record in graded_records(300)])
    assert holds(found["positive"]["asked"]["tau"], 0)
    assert holds(found["positive"]["asked"]["pair_accuracy"], 0.5)
    assert np.array(found["confusion"]) == pytest.approx(np.full((4, 4), 25), abs=8)


def test_an_embedder_that_tells_nothing_apart_is_at_chance() -> None:
    """Ties must not count as success, whichever level they favour."""
    same = np.ones((400, 4), np.float32)
    found = hardness(Similarities(np.arange(400), same[:, 0], same, same), np.random.default_rng(0))
    assert found["positive"]["asked"]["tau"] == {"value": 0, "low": 0, "high": 0}
    assert found["positive"]["asked"]["ordered"]["value"] == 0
    assert np.array(found["confusion"]) == pytest.approx(np.full((4, 4), 25), abs=8)


def test_the_sample_is_graded_in_the_eyes_of_minilm() -> None:
    subtypes = ("short-short", "sts")
    records = [record for record in read_records(SAMPLE) if record.task.subtype in subtypes]
    encoder = Encoder.from_pretrained("sentence-transformers/all-MiniLM-L6-v2", pooling="mean")
    found = hardness(
        measure(records, np.arange(0, len(records), 3), encoder.encode, quiet), np.random.default_rng(0)
    )
    mean = found["positive"]["asked"]["mean"]
    assert mean["1"]["high"] < min(mean["2"]["low"], mean["3"]["low"])
    assert max(mean["2"]["high"], mean["3"]["high"]) < mean["4"]["low"]
    assert found["positive"]["asked"]["tau"]["low"] > 0.6
    assert holds(found["positive"]["permuted"]["tau"], 0)


@pytest.mark.parametrize("planted", [1, 2, 3, 4])
def test_a_negative_nearer_than_the_positive_is_counted_at_its_level(planted: int) -> None:
    records = graded_records(40)
    records[7] = with_negatives(
        records[7], lambda level, text: records[7].query if level == planted else text
    )
    found = similarities(records)
    assert np.argwhere(above_positive(found)).tolist() == [[7, planted - 1]]
    figures = margins(records, found)
    assert [figures["by_level"][str(level)]["value"] for level in range(1, 5)] == [
        1 / 40 if level == planted else 0 for level in range(1, 5)
    ]
    [example] = figures["examples"]
    assert (example["id"], example["level"]) == ("r0007", planted)


def test_a_negative_cosine_of_the_positive_does_not_turn_the_bar_round() -> None:
    cosines = np.float32([[-0.3, -0.2, -0.195, 0.1]])
    found = Similarities(np.arange(1), np.float32([-0.2]), cosines, cosines)
    assert above_positive(found).tolist() == [[False, True, True, True]]


def test_a_cross_encoder_judges_pairs_of_query_and_text() -> None:
    records = graded_records(30)
    wanted = {records[3].query: graded_negatives(records[3])[1]}
    right = {(record.query, record.positive) for record in records} | wanted.items()
    right |= {(one.query, one.positive) for one in labelled_set()}
    right |= {(one.query, one.negative) for one in labelled_set() if one.false_negative}

    def score_pairs(pairs: list[tuple[str, str]]) -> np.ndarray:
        return np.array([0.9 if pair in right else 0.1 for pair in pairs])

    rows = np.arange(0, 30, 3)
    verdicts = cross_encoder_judge(score_pairs, "by heart")(records, rows, quiet)
    assert np.argwhere(verdicts.found).tolist() == [[3, 1]]
    assert np.flatnonzero(verdicts.judged.all(axis=1)).tolist() == rows.tolist()
    assert verdicts.judged.sum() == 4 * len(rows)
    assert verdicts.reasons == {(3, 1): "scores 0.90, the positive 0.90"}
    assert verdicts.agreement["kappa"] == 1
    assert "by heart, a cross-encoder, from 0.95 times" in verdicts.judge


def test_a_cross_encoders_threshold_is_a_share() -> None:
    with pytest.raises(MghError, match="alpha should be above 0"):
        cross_encoder_judge(lambda pairs: np.ones(len(pairs)), "sure", alpha=0.0)


def test_a_word_that_marks_a_level_is_found_but_not_by_lengths() -> None:
    mark = {1: "anchor", 2: "basalt", 3: "copper", 4: "dagger"}  # as long as each other
    records = [with_negatives(r, lambda level, text: f"{text} {mark[level]}") for r in graded_records(80)]
    found = probed(records)
    assert found["text"]["asked"]["low"] > 0.9
    assert holds(found["text"]["permuted"], 0.25)
    assert holds(found["lengths"]["asked"], 0.25)
    for level, word in mark.items():
        assert found["telling_words"][str(level)][0] == word


def test_a_level_that_is_longer_is_found_by_lengths() -> None:
    records = [
        with_negatives(r, lambda level, text: f"{text} {text}" if level == 4 else text)
        for r in graded_records(80)
    ]
    found = probed(records)["lengths"]
    # Level 4 is always told, and the other three look alike: 1/4 + 3/4 · 1/3.
    assert found["asked"]["value"] == pytest.approx(0.5, abs=0.05)
    assert found["permuted"]["high"] < 0.35
    sizes = lengths(records, quiet)["by_text"]
    assert sizes["level 4"]["chars"]["median"] == 2 * sizes["level 3"]["chars"]["median"] + 1
    assert sizes["level 4"]["words"] == {"p5": 2 * WORDS, "median": 2 * WORDS, "p95": 2 * WORDS}


def test_nothing_planted_nothing_found() -> None:
    found = probed(graded_records(80))
    assert found["text"]["asked"]["value"] == pytest.approx(0.25, abs=0.06)
    assert found["lengths"]["asked"]["value"] == pytest.approx(0.25, abs=0.06)


def test_negatives_without_words_can_be_probed() -> None:
    found = probed([with_negatives(r, lambda level, _text: "🙂" * level) for r in graded_records(40)])
    assert found["text"]["asked"]["value"] == 1


@pytest.fixture(scope="module")
def planted() -> list[Record]:
    """Sixty records: one with markup whose negative of level 4 is its query, one that repeats another, and
    names that mean something to Markdown."""
    records = graded_records(60)
    odd = records[8].model_copy(
        update={"query": f"{SCRIPT} {records[8].query}", "source": {"dataset": f"a|b {SCRIPT}"}}
    )
    records[8] = with_negatives(odd, lambda level, text: odd.query if level == 4 else text)
    records[20] = records[4].model_copy(update={"id": "r0020"})
    return records


@pytest.fixture(scope="module")
def audited(planted: list[Record], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("audit") / "audit"
    return folder, audit(planted, COST, embed, "bag of words", folder)


class Tags(HTMLParser):
    """Collects the names of all tags and the addresses that they would fetch."""

    def __init__(self, page: str):
        super().__init__()
        self.names: set[str] = set()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]


def test_the_folder_holds_the_figures_as_files(audited: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = audited
    names = ["audit.html", "audit.json", "audit.md", "decisions.parquet"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert json.loads((folder / "audit.json").read_text()) == figures
    assert figures["composition"]["domains"] == {
        "domain 0": 20,
        "domain 1": 21,
        "domain 2": 18,
        "not stated": 1,
    }
    assert figures["duplicates"]["near"] == 1
    assert figures["margins"]["by_level"]["4"]["value"] == pytest.approx(1 / 60, abs=1e-6)
    assert figures["false_negatives"] == {"judge": None}


def test_model_text_stays_text_on_the_page(audited: tuple[Path, dict[str, Any]]) -> None:
    page = (audited[0] / "audit.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    tags = Tags(page)
    assert "script" not in tags.names
    assert tags.addresses == ["data:,"]
    assert "Level 4 above the positive, by an embedder" in page
    assert "False negatives at level" not in page
    markdown = (audited[0] / "audit.md").read_text()
    assert r"a\|b \<script\>alert(1)\</script\>" in markdown
    assert "<script" not in markdown.replace(r"\<", "")
    for text in (page, markdown):
        assert "Not judged. Whether a negative is a right answer is for a judge to say" in text


def test_decisions_name_each_record(planted: list[Record], audited: tuple[Path, dict[str, Any]]) -> None:
    rows = {row["id"]: row for row in pq.read_table(audited[0] / "decisions.parquet").to_pylist()}
    assert list(rows) == [record.id for record in planted]
    assert [key for key, row in rows.items() if row["above_positive_4"]] == ["r0008"]
    assert {row[f"false_negative_{level}"] for row in rows.values() for level in (1, 2, 3, 4)} == {None}
    duplicate = rows["r0020"]
    assert [duplicate[name] for name in ("same_query_as", "same_positive_as", "near_duplicate_of")] == [
        "r0004"
    ] * 3
    assert {row["near_duplicate_of"] for key, row in rows.items() if key != "r0020"} == {None}
    found = similarities(planted)
    for at, row in enumerate(rows.values()):
        levels = [row[f"similarity_{level}"] for level in (1, 2, 3, 4)]
        assert levels == found.to_positive[at].tolist()
        assert row["similarity_query_positive"] == found.query_positive[at]
        assert row["ordered"] == (levels == sorted(set(levels)))


def test_a_second_audit_writes_the_same_bytes(
    planted: list[Record], audited: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    with StoreWriter(tmp_path / "store") as writer:
        for record in planted:
            writer.add(record)
    stored = StoredRecords(Store.open(tmp_path / "store"))
    assert list(stored) == planted
    assert (stored[-1], stored[3:5]) == (planted[-1], planted[3:5])
    audit(stored, COST, embed, "bag of words", tmp_path / "audit")
    for path in audited[0].iterdir():
        assert (tmp_path / "audit" / path.name).read_bytes() == path.read_bytes(), path.name


def test_of_any_records_those_with_every_level_are_audited(planted: list[Record], tmp_path: Path) -> None:
    whole = planted[:12]
    twice = whole[3]
    extra = [Negative(text="a second one of level 2", level=2), Negative(text="of no level", level=None)]
    others = [
        record.model_copy(update={"negatives": record.negatives[:kept]})
        for record, kept in zip(planted[12:15], (3, 1, 0), strict=True)
    ]
    with StoreWriter(tmp_path / "store") as writer:
        for record in [others[0], *whole[:3], others[1], *whole[4:], others[2]]:
            writer.add(record)
        writer.add(twice.model_copy(update={"negatives": [*twice.negatives, *extra]}))
    graded = GradedRecords(Store.open(tmp_path / "store"))
    expected = [
        record.model_copy(update={"negatives": sorted(record.negatives, key=lambda n: n.level or 0)})
        for record in [*whole[:3], *whole[4:], twice]
    ]
    assert (list(graded), graded.left_out, len(graded)) == (expected, 3, 12)
    assert (graded[-1], graded[1:3]) == (expected[-1], expected[1:3])
    figures = audit(graded, None, embed, "bag of words", tmp_path / "audit", left_out=graded.left_out)
    assert (figures["records"], figures["left_out"], figures["cost"]) == (12, 3, None)
    page = (tmp_path / "audit" / "audit.md").read_text()
    assert "3 records more have not a negative of each level" in page
    assert "## Cost" not in page
    assert "## Relabelling" not in page


def test_what_a_relabel_pass_did_is_shown(planted: list[Record], tmp_path: Path) -> None:
    changes = [Change("3", "4", 0.7), Change("4", DROPPED, 0.9)]
    relabelling = Relabelling()
    relabelling.add(notes(Relabelled("a<b>", changes, 0.8), "sha"))
    figures = audit(planted[:12], None, embed, "words", tmp_path / "audit", relabelling=relabelling)
    assert figures["relabelled"] == relabelling.as_json()
    page = (tmp_path / "audit" / "audit.md").read_text()
    assert "their positives score 0.800 on average" in page
    rows = [line for line in page.split("## Relabelling")[1].splitlines() if line.startswith("|")]
    assert rows == [
        r"| before \\ after | 4 | dropped | mean score |",
        "|---|---|---|---|",
        "| 3 | 1 | 0 | 0.700 |",
        "| 4 | 0 | 1 | 0.900 |",
        "| mean score | 0.700 | 0.900 | |",
    ]
    shown = (tmp_path / "audit" / "audit.html").read_text()
    assert "<h2>Relabelling</h2>" in shown
    assert "a&lt;b&gt;" in shown


def test_what_a_judge_says_stands_under_its_name(planted: list[Record], tmp_path: Path) -> None:
    agreed = {
        "items": 58,
        "judged": 57,
        "accuracy": wilson(52, 57),
        "precision": 0.9,
        "recall": None,
        "kappa": 0.4,
    }
    cost = {"calls": 298, "tokens_in": 120_000, "tokens_out": 9_000, "without_verdict": {"not_json": 3}}

    def judge(records: list[Record], _rows: np.ndarray, _progress: object) -> Verdicts:
        found, judged = no_verdicts(len(records)), no_verdicts(len(records))
        judged[:, 1], judged[:40, 3], judged[:9, 0], found[5, 3] = True, True, True, True
        return Verdicts("a wise one", found, judged, agreed, {(5, 3): f"{SCRIPT} it does"}, cost)

    figures = audit(planted, COST, embed, "bag of words", tmp_path / "audit", judge=judge)["false_negatives"]
    # Nine of level 1 are too few for a figure, and of level 3 there is none.
    assert {level: figure["value"] for level, figure in figures["by_level"].items()} == {"2": 0, "4": 1 / 40}
    assert (figures["judged"], figures["found"]) == (109, 1)
    [example] = figures["examples"]
    assert (example["id"], example["level"], example["reason"]) == ("r0005", 4, f"{SCRIPT} it does")
    for name in ("audit.html", "audit.md"):
        page = (tmp_path / "audit" / name).read_text()
        for words in ("a wise one", "0.40", "undefined", "298", "120,000", "109 negatives were judged, 1 of"):
            assert words in page, (name, words)
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert "False negatives at level 4" in page
    assert "Below 0.6 a judge is no base for decisions" in page
    assert "script" not in Tags(page).names
    table = pq.read_table(tmp_path / "audit" / "decisions.parquet")
    assert (table.schema.metadata[JUDGE], table.schema.metadata[KAPPA]) == (b"a wise one", b"0.4")
    assert [table[f"false_negative_{level}"].null_count for level in (1, 2, 3, 4)] == [51, 0, 60, 20]
    assert table["false_negative_4"].to_pylist()[:40] == [row == 5 for row in range(40)]


def test_a_sample_is_said_and_leaves_the_rest_null(planted: list[Record], tmp_path: Path) -> None:
    figures = audit(planted, COST, embed, "bag of words", tmp_path / "audit", sample=12)
    assert (figures["records"], figures["embedded"]) == (60, 12)
    assert "measured on 12 records" in (tmp_path / "audit" / "audit.html").read_text()
    table = pq.read_table(tmp_path / "audit" / "decisions.parquet")
    for name in ("similarity_1", "ordered", "above_positive_2"):
        assert table[name].null_count == 48
    assert table["language_found"].null_count == 0
    # Twelve are too few for similarities; sixty are enough for texts.
    assert "12 records are too few" in figures["hardness"]["too_few"]
    assert figures["shortcut"]["too_few"] is None


def test_figures_on_too_few_records_are_refused(tmp_path: Path) -> None:
    figures = audit(graded_records(12), COST, embed, "bag of words", tmp_path / "audit")
    for check in ("hardness", "margins", "shortcut", "lengths"):
        assert "12 records are too few for a figure: 30 are needed" in figures[check]["too_few"]
    for name in ("audit.html", "audit.md"):
        page = (tmp_path / "audit" / name).read_text()
        assert page.count("No figure: 12 records are too few") == 4


@pytest.mark.parametrize(
    ("change", "options", "complaint"),
    [
        (lambda _: [], {}, "no records to audit"),
        (lambda records: records + records[:1], {}, "id 'r0000' occurs twice"),
        (
            lambda records: [r.model_copy(update={"negatives": r.negatives[:3]}) for r in records],
            {},
            r"record 'r0000' has negatives of levels \[4, 3, 2\]",
        ),
        (list, {"embed": lambda texts: 2 * embed(texts)}, "unit length"),
        (list, {"embed": lambda texts: np.nan * embed(texts)}, "unit length"),
        (list, {"embed": lambda texts: embed(texts)[1:]}, r"array of shape \(191, 1024\) for 192 texts"),
        (
            list,
            {"judge": cross_encoder_judge(lambda pairs: np.full(len(pairs), 7.0), "logits")},
            "between 0 and 1",
        ),
        (list, {"sample": 0}, "at least one record"),
    ],
)
def test_what_cannot_be_audited_is_refused_and_the_old_audit_stays(
    change: Callable[[list[Record]], list[Record]],
    options: dict[str, Any],
    complaint: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "audit.json").write_text("old")
    chosen = {"embed": embed, **options}
    with pytest.raises(MghError, match=complaint):
        audit(change(graded_records(32)), COST, embedder_name="bag", output=tmp_path / "audit", **chosen)
    assert (tmp_path / "audit" / "audit.json").read_text() == "old"


def test_cost_is_counted_by_accepted_sample() -> None:
    found = cost_figures(COST)
    assert found["acceptance"]["value"] == 0.8
    assert found["rejected"] == {"not_json": 15, "too_short": 5}
    assert (found["tokens_in_per_accepted"], found["tokens_out_per_accepted"]) == (100, 50)
    unknown = cost_figures(replace(COST, tokens_in=0, tokens_out=0, answered=90))
    assert [unknown[name] for name in ("tokens_in", "tokens_out", "tokens_out_per_accepted")] == [None] * 3
    some = cost_figures(replace(COST, answered=90, counted_in=90, counted_out=45))
    assert (some["tokens_in_per_accepted"], some["tokens_out_per_accepted"]) == (100, None)
    nothing = cost_figures(Cost(0, {}, 0, 0))
    assert nothing["acceptance"] is None
    assert nothing["tokens_in_per_accepted"] is None


@pytest.mark.parametrize(
    ("counted", "words"),
    [
        ((90, 90), ["8,000", "4,000", "100.0", "50.0"]),
        ((90, 45), ["8,000", "at least 4,000 (45 of 90 answers counted)", "100.0", "unknown"]),
        ((0, 0), ["unknown"] * 4),
    ],
)
def test_tokens_are_shown_as_what_is_known_of_them(
    counted: tuple[int, int], words: list[str], tmp_path: Path
) -> None:
    cost = replace(COST, answered=90, counted_in=counted[0], counted_out=counted[1])
    audit(graded_records(12), cost, embed, "bag of words", tmp_path / "audit")
    page = (tmp_path / "audit" / "audit.md").read_text()
    names = ("tokens of prompts", "tokens of answers", "prompt tokens an accepted sample")
    lines = [
        f"| {name} | {said} |"
        for name, said in zip((*names, "answer tokens an accepted sample"), words, strict=True)
    ]
    assert [line for line in page.splitlines() if "tokens" in line] == lines
    shown = (tmp_path / "audit" / "audit.html").read_text()
    assert [said for said in words if f'<td class="n">{said}</td>' not in shown] == []
