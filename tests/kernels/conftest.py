"""Without a GPU the kernels run in the interpreter."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _quick(quick_interpreter):
    pass
