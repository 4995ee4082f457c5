"""What the model card of every export says: the hub's metadata, and how the folder is loaded."""

import re
from pathlib import Path

# A name on the hub, which is what its metadata may call a base model.
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
TAGS = ("sentence-transformers", "sentence-similarity", "feature-extraction", "dense", "mgh-ds")


def metadata(base_model: str) -> list[str]:
    """The card's YAML header. A backbone that is a folder or file here is no name for others."""
    lines = ["---", "library_name: sentence-transformers", "pipeline_tag: sentence-similarity", "tags:"]
    lines += [f"- {tag}" for tag in TAGS]
    on_hub = HUB_NAME.fullmatch(base_model) and not base_model.startswith("tiny-random/")
    if on_hub and not Path(base_model).exists():
        lines.append(f"base_model: {base_model}")
    return [*lines, "---"]


def usage(reason: str | None) -> list[str]:
    """How to load the folder; `reason` is why it needs our module, None if it does not."""
    call = 'SentenceTransformer("this folder")'
    if reason is None:
        loads = ["It loads in sentence-transformers 5.7 and later, without `trust_remote_code`."]
    else:
        loads = [
            f"It loads where `mgh_ds` is installed, since {reason},",
            "which the modules of sentence-transformers cannot do. Version 6 imports `mgh_ds` only with",
            "`trust_remote_code=True`; version 5 needs no flag.",
        ]
    code = ["from sentence_transformers import SentenceTransformer", "", f"model = {call}"]
    vectors = [
        'queries = model.encode_query(["a question"])',
        'documents = model.encode_document(["a text"])',
    ]
    return ["```python", *code, *vectors, "```", "", *loads]


def of_encoder(name: str, reason: str | None) -> str:
    """The card of a model that was made from another, `name`, and not trained here."""
    lines = [*metadata(name), "# Text-embedding model", "", f"Made from {name}.", "", *usage(reason)]
    return "\n".join(lines) + "\n"
