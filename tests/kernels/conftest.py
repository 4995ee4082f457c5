"""Without a GPU the kernels run in the interpreter."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _interpreter(quick_interpreter, interpreted_bfloat16):
    pass


@pytest.fixture
def uninitialised_memory_is_nan():
    """What a kernel forgets to write is seen."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)
