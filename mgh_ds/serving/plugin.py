"""The entry point `vllm.general_plugins`: makes our architecture known to vLLM.

vLLM calls `register` in each of its processes, for any model: nothing heavy is imported here, and models of
others stay as they are.
"""

from typing import Any

from mgh_ds.model.config import ARCHITECTURE
from mgh_ds.serving.config import EmbedderConfig
from mgh_ds.serving.unnamed import PLAIN, refuse_unnamed


def register() -> None:
    """May be called again."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(ARCHITECTURE, "mgh_ds.serving.model:MghEmbedder")
    try:
        from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
    except ImportError:  # the model says so when it is loaded
        return
    if MODELS_CONFIG_MAP.get(ARCHITECTURE) is EmbedderConfig:
        return
    MODELS_CONFIG_MAP[ARCHITECTURE] = EmbedderConfig
    for name in PLAIN:
        MODELS_CONFIG_MAP[name] = _watched(MODELS_CONFIG_MAP.get(name, VerifyAndUpdateConfig))


def _watched(theirs: Any) -> Any:
    """vLLM's own settings of an architecture, after a look whether the folder is an export of ours."""

    class Watched(theirs):
        @staticmethod
        def verify_and_update_model_config(model_config: Any) -> None:
            refuse_unnamed(model_config.model, model_config.revision)
            theirs.verify_and_update_model_config(model_config)

    return Watched
