"""The marks of tests that need vLLM."""

import importlib.util

import pytest

MISSING = importlib.util.find_spec("vllm") is None


def needs_vllm(group: str) -> list[pytest.MarkDecorator]:
    """Beside a time limit of its own. A group stays on one worker: no more engines than groups stand beside
    one another, for each takes the cores that there are."""
    return [
        pytest.mark.system,
        pytest.mark.xdist_group(group),
        pytest.mark.skipif(MISSING, reason="vLLM is not installed: make vllm"),
    ]


ENGINES = needs_vllm("vllm engines")
FAMILIES = needs_vllm("vllm families")  # as many minutes as all others together
