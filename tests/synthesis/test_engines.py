"""An engine is a module and a row of a table, a subtype a row and a few words, and nothing is imported before
it is used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.records.subtypes import SUBTYPES, SubtypeTraits
from mgh_ds.synthesis.answers import Refused, read_sample
from mgh_ds.synthesis.config import EngineConfig, FilterConfig
from mgh_ds.synthesis.engines import ENGINES
from mgh_ds.synthesis.engines.opening import check_engine, open_engine
from mgh_ds.synthesis.engines.scripted import ScriptedEngine
from mgh_ds.synthesis.levels import LEVEL_OF
from mgh_ds.synthesis.merge import merge
from mgh_ds.synthesis.plan import open_plan
from mgh_ds.synthesis.prompts import PACKAGED_TEMPLATES, Prompts
from mgh_ds.synthesis.slots import PACKAGED_SLOTS, SlotTable
from mgh_ds.synthesis.units import Task
from tests.synthesis.kill_worker import work
from tests.synthesis.recipes import at, small_plan

ECHO = """
from mgh_ds.common.errors import MghError

opened = []

def check(config):
    if config.model != "echo":
        raise MghError("engine.model: an echo has no model but echo")

def open_engine(config, log):
    opened.append(log)
    return "an engine"
"""
TASKS = SlotTable.load(PACKAGED_SLOTS)
OPTIONAL = ("vllm", "openai", "httpx2", "datasketch", "sklearn", "py3langid", "scipy")


def test_a_new_engine_is_a_module_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "echo_engine.py").write_text(ECHO)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(ENGINES, "echo", "echo_engine")
    # Recipes take the name once the table has it as the package is loaded: tests/test_extending.py.
    config = EngineConfig.model_construct(kind="echo", model="echo")
    check_engine(config)
    assert open_engine(config, tmp_path / "log") == "an engine"
    assert sys.modules.pop("echo_engine").opened == [tmp_path / "log"]
    with pytest.raises(MghError, match="an echo has no model but echo"):
        check_engine(config.model_copy(update={"model": "horn"}))


def test_the_table_leads_to_the_engines(tmp_path: Path) -> None:
    assert set(ENGINES) == {"scripted", "endpoint", "vllm"}
    config = EngineConfig(kind="scripted", model="scripted")
    assert isinstance(open_engine(config, tmp_path / "log"), ScriptedEngine)
    with pytest.raises(MghError, match="one of scripted, endpoint, vllm, found 'scriptd'; did you mean `scr"):
        EngineConfig(kind="scriptd", model="scripted")


def test_a_new_subtype_is_a_row_and_the_words_that_describe_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SUBTYPES, "headline", SubtypeTraits("asymmetric", "long", "short", 0))
    templates = tmp_path / "templates"
    templates.mkdir()
    for path in PACKAGED_TEMPLATES.glob("*.jinja"):
        (templates / path.name).write_text(path.read_text().replace(PARAPHRASE, HEADLINE + PARAPHRASE))
    prompts = Prompts.load(templates, TASKS)
    asked = prompts.for_tasks("headline", 3, TASKS.draw("tasks", at("")))[1]["content"]
    assert "The text to be found is the headline" in asked
    sample = prompts.for_sample(Task("t", "headline", "Find it"), TASKS.draw("samples", at("")))
    assert '- "positive": ' in sample[1]["content"]

    plan = small_plan(
        tmp_path / "plan",
        *("--prompts.templates", str(templates), "--tasks.subtypes", "{headline: 1.0}"),
        *("--filters.short_chars", "[4, 900]"),
    )
    work(plan.folder, [0, 1, 2, 3])
    merged = merge(open_plan(plan.folder))
    assert merged.counts.accepted >= 160
    with pytest.raises(Refused, match="too_short:query"):
        read_sample(SHORT_QUERY, "stop", "headline", FilterConfig())


PARAPHRASE = '{% elif subtype == "paraphrase" %}'
HEADLINE = """{% elif subtype == "headline" %}
The given text is a report. The text to be found is the headline under which it was printed.
"""
SHORT_QUERY = json.dumps({"query": "Word?"} | {key: f"The text {key}." for key in ("positive", *LEVEL_OF)})


@pytest.mark.parametrize("subtype", SUBTYPES)
def test_the_packaged_prompt_describes_every_subtype(subtype: str) -> None:
    prompt = Prompts.load(None, TASKS).for_tasks(subtype, 3, TASKS.draw("tasks", at("")))[1]["content"]
    assert "Style of a task: " in prompt, f"templates/tasks.jinja has no words for {subtype}"


def test_optional_packages_are_imported_by_what_needs_them() -> None:
    code = (
        f"import sys; sys.modules |= dict.fromkeys({OPTIONAL!r})\n"
        "import mgh_ds.synthesis.commands, mgh_ds.synthesis.worker, mgh_ds.records.commands\n"
        "from mgh_ds.synthesis import engines\n"
        "from mgh_ds.synthesis.engines.opening import check_engine\n"
        "from mgh_ds.synthesis.config import EngineConfig\n"
        "for kind in engines.ENGINES: check_engine(EngineConfig(kind=kind, model='a-name'))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_tables_that_a_command_line_lists_import_nothing_else() -> None:
    code = (
        "import sys, mgh_ds.records.subtypes, mgh_ds.records.formats\n"
        "print([name for name in ('numpy', 'pyarrow', 'pydantic', 'jinja2') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60).strip() == "[]"
