"""What can be said of a model before any engine is started: is the folder there, and can it chat?"""

from pathlib import Path

from mgh_ds.common import files
from mgh_ds.common.errors import MghError

PATH_STARTS = ("/", "./", "../", "~")
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")


def local_folder(model: str) -> Path | None:
    """The folder that `model` names, or None for a name on a hub.

    Raises MghError for what is plainly meant as a path and is no folder.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if model.startswith(PATH_STARTS) or folder.exists():
        raise MghError(f"engine.model: {model} is not a folder; give a model's folder or its name on the hub")
    return None


def check_chat_template(model: str) -> None:
    """Raises MghError if `model` is a local folder that cannot chat. Names on a hub are not looked up."""
    folder = local_folder(model)
    if folder is None:
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
