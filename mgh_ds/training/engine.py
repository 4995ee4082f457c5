"""The DeepSpeed engine: ZeRO-2 around an embedding model, and the one place that knows DeepSpeed's
settings."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from mgh_ds.common.errors import MghError
from mgh_ds.common.problems import nearest
from mgh_ds.distributed.group import device
from mgh_ds.model.config import ModelConfig
from mgh_ds.model.embedder import EmbeddingModel
from mgh_ds.training.config import TrainingConfig

# Files that `training.deepspeed` may name without their folder and ending.
SHIPPED = Path(__file__).parents[1] / "configs" / "deepspeed"
# Decided by the recipe (or by gradient caching); a second value in the JSON file could only contradict it.
OWNED_KEYS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
)


def make_engine(model: EmbeddingModel, model_config: ModelConfig, config: TrainingConfig) -> Any:
    """Wraps `model` for ZeRO-2 training with AdamW and a linear warm-up and decay.

    Raises MghError for an unsafe precision, or engine settings that are unreadable or not ZeRO-2.
    """
    import deepspeed

    import_muon()
    check_precision(model_config, device())
    settings = engine_settings(model_config, config)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config))
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=trainable, optimizer=optimizer, lr_scheduler=schedule, config=settings
    )
    return engine


def engine_settings(model_config: ModelConfig, config: TrainingConfig) -> dict[str, Any]:
    """The JSON file's settings together with those that the recipe decides."""
    path = settings_file(config.deepspeed)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MghError(f"training.deepspeed: cannot read {path}: {error}") from None
    if not isinstance(settings, dict):
        raise MghError(f"{path} must hold a JSON object, found {type(settings).__name__}")
    owned = [key for key in OWNED_KEYS if key in settings]
    if owned:
        raise MghError(
            f"{path}: {', '.join(owned)} is decided by the recipe; take it out of the DeepSpeed settings"
        )
    zero = settings.get("zero_optimization")
    if not isinstance(zero, dict) or zero.get("stage") != 2:
        raise MghError(
            f"{path}: zero_optimization.stage must be 2 (gradient caching is proved for ZeRO-2 only)"
        )
    return settings | {
        # One backward "accumulation step" a step: gradient caching coalesces its backward passes itself.
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.gradient_clipping,  # DeepSpeed's default is 1.0, not "off"
        "bf16": {"enabled": model_config.dtype == "bfloat16", "check_grad_overflow": True},
    }


def settings_file(name_or_path: str) -> Path:
    """The JSON file that `training.deepspeed` means: one of the package's by its name, or any by its path.

    Raises MghError for a bare name that the package does not have.
    """
    path = Path(name_or_path)
    if path.suffix or path.name != name_or_path or path.exists():
        return path
    shipped = {file.stem: file for file in sorted(SHIPPED.glob("*.json"))}
    if name_or_path not in shipped:
        raise MghError(
            f"training.deepspeed: no settings are called {name_or_path!r}"
            f"{nearest(name_or_path, shipped) or '.'} Known: {', '.join(shipped)}; or give the path of a "
            "JSON file"
        )
    return shipped[name_or_path]


def check_precision(config: ModelConfig, device: torch.device) -> None:
    """Refuses a precision that would lose the run, with the reason."""
    if config.dtype == "float16":
        if device.type == "cpu":
            raise MghError("model.dtype float16: CPUs round and overflow in it without any gain; use float32")
        raise MghError(
            "model.dtype float16: activations of decoders trained in bfloat16 overflow it, and a step that "
            "its loss scaling skips would break the exact record of which step trained on which data; use "
            "bfloat16 or float32"
        )
    if (
        config.dtype == "bfloat16"
        and device.type == "cuda"
        and torch.cuda.get_device_capability(device) < (8, 0)
    ):
        name = torch.cuda.get_device_name(device)
        raise MghError(
            f"model.dtype bfloat16: {name} has no bfloat16 units (Ampere and later do); use float32"
        )


def import_muon() -> None:
    """Imports DeepSpeed's Muon optimizer, which no run uses but each imports, without its `torch.compile`.

    That would load the compiler in every rank: some seconds, and a hundred megabytes.
    """
    name = "TORCHDYNAMO_DISABLE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _rate(step: int, config: TrainingConfig) -> float:
    """Share of the peak learning rate: up linearly over the warm-up, then down linearly to 0 at the last
    step."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    return max(0.0, (config.steps - step) / max(1, config.steps - config.warmup_steps))
