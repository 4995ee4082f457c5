"""Who writes the text: a scripted engine, any OpenAI-compatible endpoint, or vLLM in a child process."""

from pathlib import Path

from mgh_ds.common import extras
from mgh_ds.synthesis.config import EngineConfig
from mgh_ds.synthesis.engines.port import Engine


def check_engine(config: EngineConfig) -> None:
    """What can be said about an engine without starting it. Raises MghError for what cannot work."""
    if config.kind == "endpoint":
        from mgh_ds.synthesis.engines.endpoint import check_endpoint

        check_endpoint(config.endpoint)
    elif config.kind == "vllm":
        from mgh_ds.synthesis.engines.model_folder import check_chat_template

        check_chat_template(config.model)


def open_engine(config: EngineConfig, log: Path) -> Engine:
    """Starts the engine of a configuration; what it prints goes to the file `log`."""
    if config.kind == "endpoint":
        extras.need("synthesis", "engine.kind: endpoint")
        from mgh_ds.synthesis.engines.endpoint import EndpointEngine

        return EndpointEngine(config)
    if config.kind == "vllm":
        from mgh_ds.synthesis.engines.vllm_process import VllmEngine

        return VllmEngine(config, log)
    from mgh_ds.synthesis.engines.scripted import ScriptedEngine

    return ScriptedEngine(config)
