"""Folding loses what does not count and nothing that does."""

import pytest

from mgh_ds.synthesis.wording import fold, normalise, sentences


def test_fold_keeps_what_counts() -> None:
    assert fold("  Is it\tso? ") == fold("is it so") != fold("is it not so")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("I can’t, really", "i can't really"),
        ("Ｒｅａｄ：　ｉｔ！", "read it"),
        ("well-known (and loved)", "well known and loved"),
        ("İstanbul", "istanbul"),
        ("zobov\u02bcязання", "zobov'язання"),
        ("نمی\u200cتوانم", "نمی توانم"),
        ("STRASSE", "straße"),
        ("这是，真的吗？", "这是 真的吗"),
        ("one | two", "one two"),
    ],
)
def test_what_does_not_count_makes_no_difference(first: str, second: str) -> None:
    assert fold(first) == fold(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("5 degrees", "-5 degrees"),
        ("in C", "in C#"),
        ("in C", "in C++"),
        ("12 %", "12"),
        ("3.5", "35"),
        ("दिन", "दान"),
        ("ne pas", "né pas"),
    ],
)
def test_what_counts_does(first: str, second: str) -> None:
    assert fold(first) != fold(second)


def test_sentences_are_the_same_words_with_their_ends() -> None:
    assert sentences("No: it is not, so. Why?") == "| no : it is not so . why ? |"
    assert sentences("") == "| |"
    assert fold("No: it is not. Why?") == "no it is not why"
    assert fold("...") == fold("") == ""


def test_normalise_keeps_words_alone() -> None:
    assert normalise("Find: the ＣＡＴ's “bowl”") == "find the cat s bowl"
