"""What an embedding model must know beside its weights, and the file that keeps it in an exported folder."""

from pathlib import Path
from typing import Any

from mgh_ds.common import config, files
from mgh_ds.common.errors import MghError
from mgh_ds.model.config import INSTRUCTION_TEMPLATE, PoolingConfig
from mgh_ds.model.sentence_transformers_folder import (
    MODULES,
    default_prompt,
    read_modules,
    stated_length,
)
from mgh_ds.model.standard_modules import check_exported

SETTINGS_FILE = "mgh_ds.json"


class Settings(config.Settings):
    """How a backbone and a tokenizer become an embedding model. The fields are explained in `ModelConfig`; a
    `max_length` of None is for the model to decide.

    `prompt` precedes each text that is read under no instruction. `append_eos` closes a text by the EOS token
    where the tokenizer does not. `dimensions` says how many of an embedding's dimensions are kept, the first
    ones; None keeps all.
    """

    pooling: PoolingConfig = PoolingConfig()
    bidirectional: bool = True
    max_length: int | None = None
    instruction_template: str = INSTRUCTION_TEMPLATE
    use_instructions: bool = True
    prompt: str = ""
    append_eos: bool = True
    dimensions: int | None = None

    def changed(self, **options: Any) -> "Settings":
        """These settings with those `options` (fields of this class or of the pooling) that are not None."""
        given = {name: value for name, value in options.items() if value is not None}
        own = {name: given.pop(name) for name in type(self).model_fields if name in given}
        return self.replace(pooling=self.pooling.replace(**given), **own)


def write_settings(settings: Settings, folder: Path) -> None:
    # Where nothing is cut, the file stays one that earlier versions read.
    files.write_json(
        folder / SETTINGS_FILE, settings.model_dump(exclude=None if settings.dimensions else {"dimensions"})
    )


def read_settings(folder: Path) -> Settings:
    """The settings of an exported folder, or those of one that sentence-transformers saved; for other models
    the defaults, and the length their authors chose.

    Raises MghError for a damaged file, one that another version wrote, and what `read_modules` and
    `check_exported` refuse.
    """
    path = folder / SETTINGS_FILE
    if path.exists():
        content = files.read_json(path)
        try:
            settings = Settings(**{**content, "pooling": PoolingConfig(**content["pooling"])})
        except (TypeError, KeyError, MghError) as error:
            raise MghError(
                f"{path} does not hold the settings that this version of mgh-ds writes: {error}"
            ) from error
        check_exported(
            folder,
            settings.pooling,
            use_instructions=settings.use_instructions,
            dimensions=settings.dimensions,
        )
        # Where sentence-transformers saved the folder again, its own file is the newer one.
        return settings.replace(prompt=default_prompt(folder))
    if (folder / MODULES).exists():
        return Settings(**read_modules(folder))
    return Settings(max_length=stated_length(folder))
