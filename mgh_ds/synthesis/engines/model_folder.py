"""What can be said of a model before any engine is started: is the folder there, and can it chat?"""

from pathlib import Path

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.model.gguf_folder import find_gguf

PATH_STARTS = ("/", "./", "../", "~")
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")


def local_folder(model: str) -> Path | None:
    """The folder that `model` names, or None for a name on a hub and for a GGUF file.

    Raises MghError for what is plainly meant as a path and is neither.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if find_gguf(folder) is not None:
        return None
    if model.startswith(PATH_STARTS) or folder.exists():
        raise MghError(
            f"engine.model: {model} is not a folder; give a model's folder, a GGUF file, or a name on the hub"
        )
    return None


def dequantised_model(model: str) -> str:
    """`model` as vLLM can load it: of a GGUF file, and of SmolLM2, which may come from one, the folder.

    Raises MghError for what cannot be dequantised.
    """
    from mgh_ds.model.weights import SHORT, SMOLLM2, resolve_model  # imports the hub's client

    path = str(Path(model).expanduser())
    dequantised = SHORT.get(model, model) == SMOLLM2 or find_gguf(Path(path)) is not None
    return str(resolve_model(path)) if dequantised else model


def check_chat_template(model: str) -> None:
    """Raises MghError if `model` is a local folder that cannot chat. Names on a hub are not looked up, and of
    what is a GGUF file the template is known once it is dequantised."""
    folder = local_folder(model)
    if folder is None or find_gguf(folder) is not None:
        return
    if not (folder / "config.json").is_file():
        raise MghError(f"{folder} holds no model: config.json is missing")
    if any((folder / name).is_file() for name in TEMPLATE_FILES):
        return
    tokenizer = folder / "tokenizer_config.json"
    if not tokenizer.is_file() or not files.read_json(tokenizer).get("chat_template"):
        raise MghError(
            f"{folder} has no chat template, neither in tokenizer_config.json nor in chat_template.jinja: "
            "choose an instruction-tuned model, or put the template of its family there"
        )
