"""The folder of the model that vLLM was asked for, and what its settings say."""

from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import PreTrainedConfig

from mgh_ds import __version__
from mgh_ds.common.errors import MghError
from mgh_ds.model.backbone import read_config
from mgh_ds.model.settings import SETTINGS_FILE, Settings, read_settings
from mgh_ds.model.weights import WANTED


def model_folder(name_or_path: str, revision: str | None) -> Path:
    """A folder as it is; a name on the hub in the revision that vLLM found, from its cache or the hub."""
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    return Path(snapshot_download(name_or_path, revision=revision, allow_patterns=WANTED))


def read_folder(folder: Path) -> tuple[Settings, PreTrainedConfig]:
    """Raises MghError, which says what to install, for what another version exported, and for what `Encoder`
    refuses, such as adapters that are not merged."""
    config = read_config(folder)
    try:
        return read_settings(folder), config
    except MghError as error:
        if not (folder / SETTINGS_FILE).exists():
            raise
        raise MghError(
            f"{error}; this is mgh-ds {__version__}: install the version that exported the folder, or export "
            "the run again with this one"
        ) from error
