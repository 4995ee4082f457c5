"""What the model card of every export says: the hub's metadata, and how the folder is loaded."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mgh_ds.model.onnx_graph import Graphs

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


def onnx_usage(graphs: "Graphs") -> str:
    """What the card of an export with ONNX graphs says of them."""
    inputs = ", ".join(f"`{name}`" for name in graphs.inputs)
    lines = [
        f"`onnx/model.onnx` takes {inputs} (int64, `[texts, tokens]`) and returns `sentence_embedding`, of",
        "unit length, and `last_hidden_state`. By onnxruntime, vectors of texts of several lengths have",
        f"a cosine of {_down(graphs.float32.least)} or more to torch's.",
    ]
    if graphs.int8:
        lines += [
            "`onnx/model_qint8.onnx` has its linear layers quantised to 8 bits: cosines to torch's vectors",
            f"of {_down(graphs.int8.least)} or more, {_down(graphs.int8.mean)} on average.",
        ]
    return "\n".join(["", "## ONNX", "", *lines, ""])


def _down(cosine: float) -> str:
    """To five digits, never up: a bound that holds."""
    return f"{math.floor(1e5 * cosine) / 1e5:.5f}"
