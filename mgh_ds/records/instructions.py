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
_SAME_QUESTION = Instruction("Retrieve questions that ask the same as the given question", symmetric=True)
_ENTAILED = Instruction("Given a premise, retrieve a statement that it entails")
_WEB_PASSAGE = Instruction("Given a web search query, retrieve passages that answer it")
_CHINESE_PASSAGE = Instruction("Given a Chinese web search query, retrieve passages that answer it")
_WIKIPEDIA_PASSAGE = Instruction("Given a question, retrieve Wikipedia passages that answer it")
_PASSAGE = Instruction("Given a question, retrieve the passage that answers it")

INSTRUCTIONS: dict[str, Instruction] = {
    # training sources
    "SNLI": _ENTAILED,
    "MedQuAD": Instruction("Given a medical question, retrieve the passage that answers it"),
    "CLINC150": Instruction("Retrieve requests that share the intent of the given request", symmetric=True),
    "PubMedQA": Instruction("Given a biomedical research question, retrieve the abstract that answers it"),
    "TyDiQA": _PASSAGE,
    # the public retrieval triples, by the names of their files
    "allnli": _ENTAILED,
    "allnli_split1": _ENTAILED,
    "allnli_split2": _SAME_MEANING,
    "dureader": _CHINESE_PASSAGE,
    "eli5_question_answer": Instruction("Given a question, retrieve the best-liked answer from a forum"),
    "fever": Instruction("Given a claim, retrieve documents that support or refute it"),
    "hotpot_qa": Instruction(
        "Given a question that takes several steps, retrieve documents that help answer it"
    ),
    "miracl": _WIKIPEDIA_PASSAGE,
    "mrtydi": _WIKIPEDIA_PASSAGE,
    "msmarco_document": Instruction("Given a web search query, retrieve documents that answer it"),
    "msmarco_passage": _WEB_PASSAGE,
    "nq": _WIKIPEDIA_PASSAGE,
    "quora_duplicates": _SAME_QUESTION,
    "quora_duplicates_split1": _SAME_QUESTION,
    "quora_duplicates_split2": Instruction(
        "Find questions with the same answer as the given one", symmetric=True
    ),
    "squad": _WIKIPEDIA_PASSAGE,
    "t2ranking": _CHINESE_PASSAGE,
    "trivia_qa": Instruction("Given a trivia question, retrieve Wikipedia passages that answer it"),
    # other public sets, by the names that presets and files give them
    "gooaq": Instruction("Given a web search question, retrieve its answer"),
    "mmarco_chinese": _CHINESE_PASSAGE,
    "msmarco": _WEB_PASSAGE,
    "pubmed_qa_labeled": Instruction(
        "Given a biomedical research question, retrieve the passage that answers it"
    ),
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
    "XQuADRetrieval": _PASSAGE,
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
