"""Which instruction a task's texts are read under, and where it comes from. Needs no mteb."""

from typing import Any, Literal, TypedDict

from mgh_ds.records.instructions import INSTRUCTIONS, instruction_for


class Prompts(TypedDict):
    """What queries and documents of a task are read under, if anything. Texts that are neither, as those of
    STS and classification, count as queries.

    `source` is "registry" (`mgh_ds.records.instructions`), "mteb" (its own prompt for the task), "records"
    (each is read under its own), or "none".
    """

    source: Literal["registry", "mteb", "records", "none"]
    query: str | None
    document: str | None


NO_PROMPTS = Prompts(source="none", query=None, document=None)
OF_RECORDS = Prompts(source="records", query=None, document=None)


def prompts_of(task: Any) -> Prompts:
    """What the registry says of an mteb task; where it does not know it, what mteb says: of the task, else of
    tasks of its kind. One text of mteb's is for the queries: documents are told only where it has two."""
    name = task.metadata.name
    if name in INSTRUCTIONS:
        return Prompts(
            source="registry", query=instruction_for(name), document=instruction_for(name, "document")
        )
    prompt = task.metadata.prompt
    if isinstance(prompt, dict):
        query, document = prompt.get("query") or None, prompt.get("document") or None
    else:
        query, document = prompt or getattr(task, "abstask_prompt", None) or None, None
    if query is None and document is None:
        return NO_PROMPTS
    return Prompts(source="mteb", query=query, document=document)


def prompt_for(prompts: Prompts, side: str | None) -> str | None:
    """The prompt of a text on one side: "query", "document" or None where mteb tells none."""
    return prompts["document" if side == "document" else "query"]
