"""Without a GPU the kernels run in the interpreter."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _interpreter(quick_interpreter, interpreted_bfloat16):
    pass
