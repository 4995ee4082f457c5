"""Prompts: every subtype and slot value renders cleanly, faults are named on load, and templates stay in
their sandbox."""

import re
from pathlib import Path

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.records.schema import Subtype
from mgh_ds.records.subtypes import SUBTYPES
from mgh_ds.synthesis.engines.port import Messages
from mgh_ds.synthesis.prompts import NAMES_OF, Prompts
from mgh_ds.synthesis.schemas import LEVEL_OF
from mgh_ds.synthesis.slots import PACKAGED_SLOTS, Slot, SlotTable
from mgh_ds.synthesis.units import Task
from tests.synthesis.recipes import at

TABLE = SlotTable.load(PACKAGED_SLOTS)
PROMPTS = Prompts.load(None, TABLE)
UNIT_ID = "5eed" * 8
INSTRUCTION = "Given a clause from a lease, retrieve the heading that belongs above it"
PLAIN = "{% block user %}{{ subtype }}{% endblock %}"


def prompts_of(folder: Path, table: SlotTable = TABLE, **texts: str) -> Prompts:
    """The packaged templates with some replaced or added, by name without ending."""
    for name, text in {**PROMPTS.files(), **{f"{name}.jinja": text for name, text in texts.items()}}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return Prompts.load(folder, table)


def for_sample(subtype: Subtype, drawn: dict[str, str] | None = None, prompts: Prompts = PROMPTS) -> Messages:
    return prompts.for_sample(Task("t", subtype, INSTRUCTION), drawn or TABLE.draw("samples", at(UNIT_ID)))


def check_clean(messages: Messages) -> None:
    assert [message["role"] for message in messages] == ["system", "user"]
    for message in messages:
        text = message["content"]
        assert text == text.strip() != ""
        assert not re.search(r"\{\{|\}\}|\{%|%\}|\{#|#\}", text)
        assert "\n\n\n" not in text
        assert not re.search(r"[ \t]$|  ", text, re.MULTILINE)
        assert not re.search(r"\.\.(?!\.)(?<!\.\.\.)|,,|: \.", text)


@pytest.mark.parametrize("subtype", SUBTYPES)
def test_every_value_of_every_slot_renders(subtype: Subtype) -> None:
    for name, slot in TABLE.slots.items():
        for value in slot.values:
            if name in TABLE.stages["tasks"]:
                drawn = {**TABLE.draw("tasks", at(UNIT_ID)), name: value}
                check_clean(PROMPTS.for_tasks(subtype, 10, drawn))
            if name in TABLE.stages["samples"]:
                check_clean(for_sample(subtype, {**TABLE.draw("samples", at(UNIT_ID)), name: value}))


def test_every_slot_has_a_place_in_its_stage() -> None:
    """A slot that no template uses would be drawn and noted for nothing."""
    for name in TABLE.stages["tasks"]:
        drawn = TABLE.draw("tasks", at(UNIT_ID))
        assert TABLE.labels(drawn)[name] in PROMPTS.for_tasks("sts", 10, drawn)[1]["content"]
    for name in TABLE.stages["samples"]:
        drawn = TABLE.draw("samples", at(UNIT_ID))
        texts = [for_sample(subtype, drawn)[1]["content"] for subtype in SUBTYPES]
        assert any(TABLE.labels(drawn)[name] in text for text in texts), name


@pytest.mark.parametrize("subtype", SUBTYPES)
def test_a_sample_prompt_names_keys_levels_task_and_lengths(subtype: Subtype) -> None:
    drawn = {
        **TABLE.draw("samples", at(UNIT_ID)),
        "short_length": "tiny",
        "long_length": "page",
        "sentence_length": "long",
    }
    text = for_sample(subtype, drawn)[1]["content"]
    assert INSTRUCTION in text
    places = [text.index(f'- "{key}"') for key in ("query", "positive", *LEVEL_OF)]
    assert places == sorted(places)
    for key, level in LEVEL_OF.items():
        assert f'"{key}": similarity {level} of 4.' in text
    if SUBTYPES[subtype].kind == "symmetric":
        assert "All six texts have a length of 22 to 40 words." in text
    else:
        length_of = {"short": "3 to 6 words", "long": "200 to 280 words"}
        query, positive = (length_of[shape] for shape in subtype.split("-"))
        assert re.search(rf'"query": .*Length: {query}\.\n', text)
        assert re.search(rf'"positive": .*Length: {positive}\.\n', text)
        assert f"The positive and the four negatives each have a length of {positive}." in text


def test_a_task_prompt_says_how_many_and_differs_by_subtype() -> None:
    drawn = TABLE.draw("tasks", at(UNIT_ID))
    texts = {PROMPTS.for_tasks(subtype, 13, drawn)[1]["content"] for subtype in SUBTYPES}
    assert len(texts) == len(SUBTYPES)
    assert all("Brainstorm 13 retrieval tasks" in text for text in texts)


def test_prompts_are_a_function_of_their_arguments() -> None:
    for subtype in SUBTYPES:
        first = for_sample(subtype)
        assert first == for_sample(subtype) == for_sample(subtype, prompts=Prompts.load(None, TABLE))
        first[0]["content"] = "changed by the caller"
        assert for_sample(subtype) != first


def test_frozen_templates_give_the_same_prompts(tmp_path: Path) -> None:
    for name, text in PROMPTS.files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    frozen = Prompts.load(tmp_path, TABLE)
    assert frozen.files() == PROMPTS.files()
    drawn = TABLE.draw("tasks", at(UNIT_ID))
    for subtype in SUBTYPES:
        assert for_sample(subtype, prompts=frozen) == for_sample(subtype)
        assert frozen.for_tasks(subtype, 3, drawn) == PROMPTS.for_tasks(subtype, 3, drawn)


def test_what_a_model_wrote_is_never_a_template() -> None:
    """Instructions come from stage 1: they are values, and not escaped either."""
    instruction = "Given {{ 7 * 7 }} & <b>{% include 'x' %}</b>, retrieve \"it\""
    task = Task("t", "sts", instruction)
    assert instruction in PROMPTS.for_sample(task, TABLE.draw("samples", at(UNIT_ID)))[1]["content"]


def test_the_system_block_is_optional(tmp_path: Path) -> None:
    prompts = prompts_of(tmp_path, tasks="{# for models without a system role #}\n" + PLAIN)
    drawn = TABLE.draw("tasks", at(UNIT_ID))
    assert prompts.for_tasks("sts", 2, drawn) == [{"role": "user", "content": "sts"}]


def test_a_template_may_use_its_neighbours(tmp_path: Path) -> None:
    prompts = prompts_of(
        tmp_path,
        tasks="{% block user %}{% from 'own.jinja' import twice %}{{ twice(subtype) }}{% endblock %}",
        own="{% macro twice(text) %}{{ text }} {{ text }}{% endmacro %}",
    )
    assert prompts.for_tasks("sts", 2, TABLE.draw("tasks", at(UNIT_ID)))[0]["content"] == "sts sts"
    assert "own.jinja" in prompts.files()


def block(body: str) -> str:
    return "{% block user %}\nHello.\n" + body + "\n{% endblock %}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (block("{{ domian }}"), r"line 3: `domian` is no slot of the stage `tasks`; did you mean `domain`\?"),
        (block("{{ language }}"), "line 3: `language` is no slot of the stage `tasks`"),
        (block("{{ instruction }}"), "`instruction` is no slot .* Known: count, difficulty, domain, genre"),
        (block("{% if domain %}"), "line 4: Encountered unknown tag 'endblock'"),
        (block("{{ domain"), "line 4: "),
        (block("{{ domain | nofilter }}"), "line 3: No filter named 'nofilter'"),
        (block("{{ [1, 2] | random }}"), "line 3: No filter named 'random'"),
        (block("{{ lipsum() }}"), "`lipsum` is no slot"),
        (block("{{ 1 // 0 }}"), "cannot be rendered: .*zero"),
        (block("{% include 'tasks.jinja' %}"), "cannot be rendered: .*recursion"),
        (
            block("{% include 'none.jinja' %}"),
            "uses 'none.jinja'; a template may use the files of its folder",
        ),
        (block("{% include subtype ~ '.txt' %}"), r"cannot be rendered: there is no file long-long\.txt"),
        (PLAIN + "left over", "line 1: only .* may stand at the top level"),
        ("{% set x = 1 %}" + PLAIN, "line 1: only .* may stand at the top level"),
        (PLAIN + "{% block assistant %}{% endblock %}", "only .* may stand at the top level"),
        ("{% block system %}x{% endblock %}", r"has no \{% block user %\}"),
        ("{% block user %} {% endblock %}", "renders an empty user message"),
    ],
)
def test_a_faulty_template_is_named_on_load(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MghError, match=message) as refusal:
        prompts_of(tmp_path, tasks=text)
    assert str(tmp_path / "tasks.jinja") in str(refusal.value)


def test_a_fault_in_an_included_file_is_named_there(tmp_path: Path) -> None:
    with pytest.raises(MghError, match=r"_shared\.jinja, line 2: `tone` is no slot of the stage `samples`"):
        prompts_of(tmp_path, _shared="Rules:\n{{ tone }}\n")


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("{{ ''.__class__.__mro__ }}", "'__class__' of 'str' object is unsafe"),
        ("{{ ''.__class__ }}", "'__class__' of 'str' object is unsafe"),
        ("{{ ''['__cla' ~ 'ss__'] }}", "'__class__' of 'str' object is unsafe"),
        ("{{ ''|attr('__class__') }}", "'__class__' of 'str' object is unsafe"),
        ("{{ '{0.__class__}'.format(domain) }}", "'__class__' of 'str' object is unsafe"),
        ("{{ self.__init__.__globals__ }}", "'__init__' of 'TemplateReference' object is unsafe"),
        ("{{ [].append(1) }}", "'append' of 'list' object is unsafe"),
        ("{% include '../x' %}", "uses '../x'; a template may use the files of its folder only"),
        ("{% include '../' ~ 'x' %}", "there is no file ../x in its folder"),
        ("{% include '/etc/hostname' %}", "uses '/etc/hostname'; a template may use"),
        (
            "{% import 'mgh_ds/common/files.py' as files %}",
            "uses 'mgh_ds/common/files.py'; a template may use",
        ),
        ("{{ range(10) }}", "`range` is no slot"),
        ("{{ cycler.__init__ }}", "`cycler` is no slot"),
    ],
)
def test_templates_stay_in_their_sandbox(tmp_path: Path, attack: str, message: str) -> None:
    (tmp_path / "x").write_text("outside")
    folder = tmp_path / "templates"
    folder.mkdir()
    with pytest.raises(MghError, match=message):
        prompts_of(folder, tasks=block(attack))


@pytest.mark.parametrize("name", sorted(NAMES_OF["samples"] | NAMES_OF["tasks"]))
def test_a_slot_cannot_take_a_known_name(name: str) -> None:
    slot = Slot.of({"a": 1.0}, {"a": "a"})
    stages = {
        stage: (*names, name) if name in NAMES_OF[stage] else names for stage, names in TABLE.stages.items()
    }
    with pytest.raises(MghError, match=f"the slot `{name}` has the name of something"):
        Prompts.load(None, SlotTable({**TABLE.slots, name: slot}, stages))


@pytest.mark.parametrize("name", ["name", "context", "known", "template"])
def test_a_slot_may_have_any_other_name(tmp_path: Path, name: str) -> None:
    slot = Slot.of({"a": 1.0}, {"a": "an a"})
    table = SlotTable({**TABLE.slots, name: slot}, {**TABLE.stages, "tasks": (*TABLE.stages["tasks"], name)})
    prompts = prompts_of(tmp_path, table, tasks=block("{{ " + name + " }}"))
    assert "an a" in prompts.for_tasks("sts", 2, table.draw("tasks", at(UNIT_ID)))[0]["content"]


def test_an_incomplete_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tasks.jinja").write_text(PLAIN)
    with pytest.raises(MghError, match=r"lacks samples-asymmetric\.jinja, samples-symmetric\.jinja"):
        Prompts.load(tmp_path, TABLE)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tasks.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(MghError, match=r"tasks\.jinja cannot be read as UTF-8"):
        Prompts.load(tmp_path, TABLE)
