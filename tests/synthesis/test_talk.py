"""The filter of talk on sentences in every language that synthesis draws: what it finds, exactly."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mgh_ds.synthesis.slots import PACKAGED_SLOTS, SlotTable
from mgh_ds.synthesis.talk import PACKAGED_TALK, is_talk, languages
from mgh_ds.synthesis.wording import sentences

SENTENCES = yaml.safe_load(Path(__file__).with_name("talk.yaml").read_text(encoding="utf-8"))
PARTS = ("seen", "unseen", "openings")
LANGUAGES = SlotTable.load(PACKAGED_SLOTS).slots["language"].values
SAMPLE = Path("mgh_ds/records/sample")
# What of `unseen` passes the filter though it is talk. Whoever mends these moves them to `seen`.
MISSED = {
    "My apologies, but this request falls outside of what I can help with.",
    "It is not possible for me to continue with this request.",
    "抱歉，這個要求我幫不上忙。",
}


def written(part: str, kind: str) -> list[str]:
    return [sentence for language in SENTENCES[part].values() for sentence in language[kind]]


@pytest.mark.parametrize(
    ("part", "talk", "innocent", "recall"),
    [("seen", 84, 76, 84 / 84), ("unseen", 48, 41, 45 / 48), ("openings", 63, 34, 63 / 63)],
)
def test_precision_and_recall_are_what_they_are(part: str, talk: int, innocent: int, recall: float) -> None:
    found = [sentence for sentence in written(part, "talk") if is_talk(sentences(sentence))]
    wrong = [sentence for sentence in written(part, "innocent") if is_talk(sentences(sentence))]
    assert (len(written(part, "talk")), len(written(part, "innocent"))) == (talk, innocent)
    assert set(written(part, "talk")) - set(found) == (MISSED if part == "unseen" else set())
    assert len(found) / talk == recall
    assert wrong == [], "precision 1"


def test_every_language_that_is_drawn_has_its_patterns_and_sentences() -> None:
    assert set(LANGUAGES) | {""} == languages().keys()
    for part in PARTS:
        assert set(LANGUAGES) == SENTENCES[part].keys()


def test_an_apostrophe_ends_a_word_in_patterns_as_in_texts() -> None:
    text = PACKAGED_TALK.read_text(encoding="utf-8")
    assert re.findall(r"\w+['’][()|?$].*", text) == [], "folded texts have a space there"


def test_the_bundled_sample_is_innocent() -> None:
    texts = list(bundled_texts())
    assert len(texts) > 2000
    assert [text for text in texts if is_talk(sentences(text))] == []


def test_cues_spare_no_text_that_a_pattern_finds() -> None:
    for part, kind in itertools.product(PARTS, ("talk", "innocent")):
        for words in map(sentences, written(part, kind)):
            assert is_talk(words) == any(talk.pattern.search(words) for talk in languages().values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Oil the hinge. I cannot assist with that. Then close it.", True),
        ("I cannot assist with that hinge before noon.", False),
        ("I can't write that.", True),
        ("Sorry! I can't write that. Then close it.", True),
        ("Oil the hinge. I can't write that. Then close it.", False),
        ("Oil the hinge. Certainly! Here's the document.", False),
        ("This is a HARD  negative for the query.", True),
        ("Lorem ipsum, dolor sit amet", True),
        ("I CAN\u02bcT HELP WITH THAT", True),
        ("", False),
    ],
)
def test_it_may_stand_anywhere_as_a_sentence_of_its_own(text: str, expected: bool) -> None:
    assert is_talk(sentences(text)) is expected


def bundled_texts() -> Iterator[str]:
    for path in SAMPLE.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            yield from (record["query"], record["positive"], *(one["text"] for one in record["negatives"]))
