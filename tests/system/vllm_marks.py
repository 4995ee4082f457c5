"""The marks of tests that need vLLM. One worker has them all: an engine takes the cores that there are."""

import importlib.util

import pytest

NEEDED = [
    pytest.mark.system,
    pytest.mark.xdist_group("vllm"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make vllm"),
]
"""Beside a time limit of its own."""
