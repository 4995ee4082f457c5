"""Prompts: Jinja templates filled with a unit's slots, as the chat messages of one call.

A template has one block a message, `{% block user %}` and, for models that take one, `{% block system %}`;
nothing but comments stands outside. It sees the labels of its stage's slots, `subtype`, and `count` (tasks)
or `instruction` (samples), and may include other files of its folder. In an asymmetric sample `subtype` is
the lengths of query and positive, such as short-long, whatever the subtype's name. Marks such as
`[[NEGATIVES]]`, which speak of the levels (`levels.py`), are replaced on load. All is checked and tried then.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from jinja2 import DictLoader, StrictUndefined, Template, TemplateNotFound, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mgh_ds.common.errors import MghError
from mgh_ds.common.problems import nearest
from mgh_ds.records.schema import Subtype
from mgh_ds.records.subtypes import SUBTYPES
from mgh_ds.synthesis.engines.port import Messages
from mgh_ds.synthesis.levels import expand_marks
from mgh_ds.synthesis.slots import SlotTable
from mgh_ds.synthesis.units import SynthesisStage, Task

PACKAGED_TEMPLATES = Path(__file__).with_name("templates")
ROLES = ("system", "user")
STAGE_OF: dict[str, SynthesisStage] = {
    "tasks.jinja": "tasks",
    "samples-asymmetric.jinja": "samples",
    "samples-symmetric.jinja": "samples",
}
NAMES_OF: dict[SynthesisStage, frozenset[str]] = {
    "tasks": frozenset({"subtype", "count"}),
    "samples": frozenset({"subtype", "instruction"}),
}


class Prompts:
    """The prompts of both stages, compiled once.

    `texts` are the templates by file name, `where` the folder for error messages. Raises MghError with file
    and line for what does not parse, names what it cannot know, or fails on trial.
    """

    def __init__(self, texts: Mapping[str, str], table: SlotTable, where: str) -> None:
        self._texts = dict(texts)
        self._table = table
        self._where = where
        self._environment = _environment(self._texts)
        self._trees = {name: self._parse(name) for name in self._texts}
        self._templates = {name: self._compile(name) for name in STAGE_OF}
        for subtype in SUBTYPES:
            self.for_tasks(subtype, 2, table.draw("tasks", _first))
            task = Task("", subtype, "Given a question, retrieve the passage that answers it")
            self.for_sample(task, table.draw("samples", _first))

    @classmethod
    def load(cls, folder: Path | None, table: SlotTable) -> Self:
        """Reads every `*.jinja` of a folder; None takes the packaged templates. Raises MghError."""
        folder = folder or PACKAGED_TEMPLATES
        texts = {}
        for path in sorted(folder.glob("*.jinja")):
            try:
                texts[path.name] = expand_marks(path.read_text(encoding="utf-8"), str(path))
            except (OSError, UnicodeDecodeError) as error:
                raise MghError(f"template {path} cannot be read as UTF-8 text: {error}") from None
        missing = STAGE_OF.keys() - texts.keys()
        if missing:
            raise MghError(f"template folder {folder} lacks {', '.join(sorted(missing))}")
        return cls(texts, table, str(folder))

    def files(self) -> dict[str, str]:
        """The templates by file name; written to a folder and loaded again they give the same prompts."""
        return dict(self._texts)

    def for_tasks(self, subtype: Subtype, count: int, drawn: dict[str, str]) -> Messages:
        """Asks for `count` tasks of a subtype; `drawn` is what the table drew for the unit."""
        return self._render("tasks.jinja", {"subtype": subtype, "count": count}, drawn)

    def for_sample(self, task: Task, drawn: dict[str, str]) -> Messages:
        """Asks for one sample of a task."""
        known = {"subtype": _subtype_or_lengths(task.subtype), "instruction": task.instruction}
        return self._render(f"samples-{SUBTYPES[task.subtype].kind}.jinja", known, drawn)

    def _render(self, name: str, known: dict[str, Any], drawn: dict[str, str]) -> Messages:
        template = self._templates[name]
        context = template.new_context(known | self._table.labels(drawn))
        try:
            messages = [
                {"role": role, "content": "".join(template.blocks[role](context)).strip()}
                for role in ROLES
                if role in template.blocks
            ]
        # A template is a small program of the user's: whatever it raises is a fault of its own.
        except Exception as error:
            raise MghError(f"{self._at(name)} cannot be rendered: {_describe(error)}") from error
        for message in messages:
            if not message["content"]:
                raise MghError(f"{self._at(name)} renders an empty {message['role']} message")
        return messages

    def _parse(self, name: str) -> nodes.Template:
        try:
            return self._environment.parse(self._texts[name], name)
        except TemplateSyntaxError as error:
            raise MghError(f"{self._at(name, error.lineno)}: {error.message}") from None

    def _compile(self, name: str) -> Template:
        self._check_blocks(name)
        for used in self._closure(name):
            self._check_names(used, STAGE_OF[name])
        return self._environment.get_template(name)

    def _check_blocks(self, name: str) -> None:
        roles = []
        for node in self._trees[name].body:
            if isinstance(node, nodes.Block) and node.name in ROLES:
                roles.append(node.name)
            elif not _is_blank(node):
                raise MghError(
                    f"{self._at(name, node.lineno)}: only {_blocks(' and ')} may stand at the top level; "
                    "move the rest into them, or into a comment {# … #}"
                )
        if "user" not in roles:
            raise MghError(f"{self._at(name)} has no {{% block user %}}")

    def _closure(self, name: str) -> Iterator[str]:
        """The template and all that it includes or imports, each once."""
        waiting, seen = [name], {name}
        while waiting:
            current = waiting.pop()
            yield current
            for other in meta.find_referenced_templates(self._trees[current]):
                # None is a name that is only known on rendering; the loader holds this folder's files alone.
                if other is not None and other not in seen:
                    if other not in self._trees:
                        raise MghError(f"{self._at(current)} uses {other!r}; {self._files_there()}")
                    seen.add(other)
                    waiting.append(other)

    def _check_names(self, name: str, stage: SynthesisStage) -> None:
        slots = frozenset(self._table.stages[stage])
        if clash := slots & NAMES_OF[stage]:
            raise MghError(f"the slot `{min(clash)}` has the name of something that templates know already")
        known = slots | NAMES_OF[stage]
        try:
            unknown = meta.find_undeclared_variables(self._trees[name]) - known
        except TemplateSyntaxError as error:  # such as a filter that does not exist
            raise MghError(f"{self._at(name, error.lineno)}: {error.message}") from None
        for node in self._trees[name].find_all(nodes.Name):
            if node.name in unknown:
                raise MghError(
                    f"{self._at(name, node.lineno)}: `{node.name}` is no slot of the stage `{stage}`"
                    f"{nearest(node.name, known) or '.'} Known: {', '.join(sorted(known))}"
                )

    def _at(self, name: str, line: int | None = None) -> str:
        return f"template {Path(self._where, name)}" + (f", line {line}" if line else "")

    def _files_there(self) -> str:
        return f"a template may use the files of its folder only: {', '.join(self._texts)}"


def _first(_slot: str) -> float:
    """Where each slot's first value is: for a trial, any will do."""
    return 0.0


def _subtype_or_lengths(subtype: Subtype) -> str:
    """What a stage-2 template knows as `subtype`: a symmetric subtype's name, an asymmetric one's lengths."""
    traits = SUBTYPES[subtype]
    return subtype if traits.kind == "symmetric" else f"{traits.query}-{traits.document}"


def _environment(texts: dict[str, str]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        # The texts in memory and nothing else: no path leads out of the folder.
        loader=DictLoader(texts),
        # Prompts are plain text for a language model; HTML escapes would reach it as they stand.
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    # A prompt is a function of its unit: no lipsum, no random choice.
    environment.globals.clear()
    del environment.filters["random"]
    return environment


def _is_blank(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Output) and all(
        isinstance(part, nodes.TemplateData) and not part.data.strip() for part in node.nodes
    )


def _blocks(joint: str) -> str:
    return joint.join(f"{{% block {role} %}}" for role in ROLES)


def _describe(error: Exception) -> str:
    if isinstance(error, TemplateNotFound):
        return f"there is no file {error} in its folder"
    return f"{error}" or type(error).__name__
