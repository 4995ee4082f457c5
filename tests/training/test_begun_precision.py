"""A run with `dtype: auto` goes on in the precision that it began in, on whatever machine."""

from collections.abc import Callable

from mgh_ds.common import files
from mgh_ds.common.config import dump_config
from mgh_ds.train import begun_in
from mgh_ds.training.config import RunConfig


def test_auto_is_settled_once(tiny_run: Callable[..., RunConfig]) -> None:
    config = tiny_run(dtype="auto")
    assert begun_in(config) is None, "it has not begun"
    config.path.mkdir(parents=True)
    settled = config.replace(model=config.model.replace(dtype="bfloat16"))
    files.write_text(config.path / "config.yaml", dump_config(settled))
    assert begun_in(config) == "bfloat16"
    assert begun_in(tiny_run(dtype="float32")) is None, (
        "what is asked for by name is for the checkpoint to judge"
    )
