"""What an embedding model needs to know beside its weights, and the file in an exported folder that keeps it."""

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mgh_ds import files
from mgh_ds.errors import MghError
from mgh_ds.model.config import INSTRUCTION_TEMPLATE, PoolingConfig

SETTINGS_FILE = "mgh_ds.json"


@dataclass(frozen=True)
class Settings:
    """How a backbone and a tokenizer are turned into an embedding model; the fields are explained in `ModelConfig`."""

    pooling: PoolingConfig = field(default_factory=PoolingConfig)
    bidirectional: bool = True
    max_length: int | None = None
    instruction_template: str = INSTRUCTION_TEMPLATE
    use_instructions: bool = True

    def changed(self, options: dict[str, Any]) -> "Settings":
        """These settings with those of `options` (own fields or the pooling's) that are not None."""
        given = {name: value for name, value in options.items() if value is not None}
        own = {name: given.pop(name) for name in list(given) if name in {f.name for f in fields(self)}}
        return replace(self, pooling=replace(self.pooling, **given), **own)


def write_settings(settings: Settings, folder: Path) -> None:
    files.write_json(folder / SETTINGS_FILE, asdict(settings))


def read_settings(folder: Path) -> Settings:
    """The settings of an exported folder; for any other model the defaults, with the length its authors chose.

    Raises MghError if the settings file is damaged or from another version.
    """
    path = folder / SETTINGS_FILE
    if path.exists():
        content = files.read_json(path)
        try:
            return Settings(**{**content, "pooling": PoolingConfig(**content["pooling"])})
        except (TypeError, KeyError) as error:
            raise MghError(f"{path} does not hold the settings of this version of mgh-ds: {error}") from None
    path = folder / "sentence_bert_config.json"
    length = files.read_json(path).get("max_seq_length") if path.exists() else None
    return Settings(max_length=length)
