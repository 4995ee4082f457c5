"""The one registry of task instructions: synthesis, conversion, training and evaluation all ask here.

A model must be evaluated with the instructions it was trained with. Asymmetric tasks put theirs on the query
alone; symmetric tasks (both texts play the same part) put it on both sides, which LLM2Vec's evaluation left
out.
"""

from dataclasses import dataclass
from typing import Literal

Side = Literal["query", "document"]


@dataclass(frozen=True)
class Instruction:
    """What to tell the model about a task, and whether both sides are told."""

    text: str
    symmetric: bool = False


_SAME_MEANING = Instruction("Retrieve sentences that mean the same as the given sentence", symmetric=True)

INSTRUCTIONS: dict[str, Instruction] = {
    # training sources
    "SNLI": Instruction("Given a premise, retrieve a statement that it entails"),
    "MedQuAD": Instruction("Given a medical question, retrieve the passage that answers it"),
    "CLINC150": Instruction("Retrieve requests that share the intent of the given request", symmetric=True),
    "PubMedQA": Instruction("Given a biomedical research question, retrieve the abstract that answers it"),
    "TyDiQA": Instruction("Given a question, retrieve the passage that answers it"),
    # evaluation tasks, by their MTEB names
    "STS12": _SAME_MEANING,
    "STS13": _SAME_MEANING,
    "STS14": _SAME_MEANING,
    "STS15": _SAME_MEANING,
    "STS16": _SAME_MEANING,
    "STS17": _SAME_MEANING,
    "STS22": _SAME_MEANING,
    "STSBenchmark": _SAME_MEANING,
    "BIOSSES": _SAME_MEANING,
    "SICK-R": _SAME_MEANING,
    "SciFact": Instruction("Given a scientific claim, retrieve abstracts that support or refute it"),
    "XQuADRetrieval": Instruction("Given a question, retrieve the passage that answers it"),
    "Banking77Classification": Instruction(
        "Recognise the intent of a bank customer's message", symmetric=True
    ),
}


def instruction_for(task: str, side: Side = "query") -> str | None:
    """The instruction for one side of a task, or None where the task is unknown or that side goes without."""
    entry = INSTRUCTIONS.get(task)
    if entry is None or (side == "document" and not entry.symmetric):
        return None
    return entry.text
