"""Backbones of each family, as the model's own tests have them."""

from tests.model.conftest import folders, load, one_thread  # noqa: F401
