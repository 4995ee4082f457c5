"""Templates of pages: strict about names, and able to draw charts."""

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

CHARTS = Path(__file__).parent / "charts"


def page_environment(
    folder: Path, *, autoescape: bool, finalize: Callable[[object], object] | None = None
) -> Environment:
    """An environment for the templates in `folder`, beside `chart.svg.jinja` and the charts' style sheets.

    With `autoescape` every value is escaped for HTML; `finalize` sees every value first.
    """
    return Environment(
        loader=FileSystemLoader([folder, CHARTS]),
        autoescape=autoescape,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
