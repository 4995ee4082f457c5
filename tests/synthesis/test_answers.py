"""Every rule that an answer can break has its reason, and what breaks none is accepted."""

import json
import unicodedata

import pytest

from mgh_ds.synthesis.answers import Refused, read_sample, read_tasks, record_of
from mgh_ds.synthesis.config import FilterConfig

TEXTS = {
    "query": "How do I true a wheel?",
    "positive": "Turn the spokes on the other side a quarter turn at a time until the rim runs straight.",
    "hard_negative": "Turn the spokes on the same side a quarter turn at a time until the rim is round.",
    "near_negative": "A wheel that hops has a flat spot, which is pulled out with two opposite spokes.",
    "far_negative": "Grease the bearings of a hub once a year and after each ride in heavy rain.",
    "easy_negative": "A cassoulet needs white beans, confit of duck, sausages and the better part of a day.",
}


def full_width(text: str) -> str:
    return "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in text)


FILTERS = FilterConfig(short_chars=[4, 200], long_chars=[20, 400], sentence_chars=[8, 300])


def reason(changes: dict[str, object] | str, finish: str = "stop", subtype: str = "short-short") -> str:
    text = changes if isinstance(changes, str) else json.dumps(TEXTS | changes)
    try:
        read_sample(text, finish, subtype, FILTERS)  # type: ignore[arg-type]
    except Refused as refused:
        return str(refused)
    return ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ("", "not_json"),
        ("[" * 100_000, "not_json"),
        ("[1]", "wrong_keys"),
        ({"comment": "done"}, "wrong_keys"),
        ({"query": 3}, "wrong_type:query"),
        ({"positive": " \n"}, "empty:positive"),
        ({"positive": "a\x00b c d e"}, "not_text:positive"),
        ({"positive": "ends\twith\r\nbreaks"}, ""),
        ({"positive": "half a pair \ud800 of surrogates"}, "not_text:positive"),
        ({"query": "Eh?"}, "too_short:query"),
        ({"easy_negative": "bean " * 100}, "too_long:easy_negative"),
        ({"hard_negative": TEXTS["positive"].upper() + "!"}, "repeats_positive:hard_negative"),
        ({"positive": "  how do I true\ta wheel"}, "repeats_query:positive"),
        ({"easy_negative": "How do I, true a wheel"}, "repeats_query:easy_negative"),
        ({"easy_negative": full_width(TEXTS["query"])}, "repeats_query:easy_negative"),
        ({"hard_negative": TEXTS["positive"].replace("side", "“side”")}, "repeats_positive:hard_negative"),
        ({"positive": "Use C for it.", "hard_negative": "Use C# for it."}, ""),
        ({"positive": "Keep it at 5 °C.", "hard_negative": "Keep it at -5 °C."}, ""),
        ({"positive": "A slope of 5 %.", "hard_negative": "A slope of 5."}, ""),
        ({"positive": "यह दिन है", "hard_negative": "यह दान है"}, ""),
        ({"far_negative": "?!?!?!?!"}, "no_words:far_negative"),
        ({"near_negative": "As an AI language model, I cannot say."}, "meta_talk:near_negative"),
        ({"positive": "I’m sorry, but I can’t help with that."}, "meta_talk:positive"),
        ({"positive": "I am unable to assist."}, "meta_talk:positive"),
        ({"query": "I can't help but notice my basil wilts."}, ""),
        ({"hard_negative": "This is a hard negative for the query."}, "meta_talk:hard_negative"),
    ],
)
def test_each_rule_has_its_reason(changes: dict[str, object] | str, expected: str) -> None:
    assert reason(changes) == expected


def test_control_characters_are_no_text_but_tabs_and_line_breaks_are() -> None:
    for code in range(0x180):
        character = chr(code)
        control = unicodedata.category(character) == "Cc" and character not in "\t\r\n"
        texts = {"positive": f"Turn the{character}spokes."}
        assert reason(texts) == ("not_text:positive" if control else ""), hex(code)
        tasks = json.dumps({"tasks": [f"Given a question,{character}retrieve the answer"]})
        if control:
            with pytest.raises(Refused, match="not_text:tasks"):
                read_tasks(tasks, "stop")
        else:
            assert len(read_tasks(tasks, "stop")) == 1


@pytest.mark.parametrize("finish", ["length", "abort", "error", "repetition", "refused", "quarantined"])
def test_unfinished_answers_are_refused_whatever_they_say(finish: str) -> None:
    assert reason({}, finish) == f"finish:{finish}"


def test_bounds_of_length_follow_the_subtype() -> None:
    short = {"query": "Wheel?"}
    assert reason(short, subtype="short-long") == ""
    assert reason(short, subtype="long-short") == "too_short:query"
    assert reason(short, subtype="sts") == "too_short:query"
    assert reason({"query": "word " * 50}, subtype="short-long") == "too_long:query"
    assert reason({"query": "word " * 50}, subtype="long-long") == ""


def test_tasks_are_read_and_evened_out() -> None:
    tasks = ["Given a question,\n retrieve  the answer", "x", "As an AI language model, I brainstorm"]
    assert read_tasks(json.dumps({"tasks": tasks}), "stop") == ["Given a question, retrieve the answer"]
    for bad in ([], "none", ["x"], [3]):
        with pytest.raises(Refused):
            read_tasks(json.dumps({"tasks": bad}), "stop")


def test_an_accepted_sample_becomes_a_record_with_four_levels() -> None:
    sample = read_sample(json.dumps(TEXTS), "stop", "short-long", FILTERS)
    record = record_of(sample, "id", "short-long", "Given a question, …", "en", {"dataset": "test"})
    assert [negative.level for negative in record.negatives] == [4, 3, 2, 1]
    assert record.negatives[0].text == TEXTS["hard_negative"]
    assert record.task.kind == "asymmetric"
    with pytest.raises(Refused, match="no_record"):
        record_of(sample, "id", "short-long", "Given a question, …", "not a language", {"dataset": "test"})
