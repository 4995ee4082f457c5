from tests.encoding.conftest import alone, encoder, model  # noqa: F401
