"""The audit for people: the figures of `audit.json` as one HTML page that fetches nothing, and as Markdown.

Texts, ids and names come from a language model or from whoever wrote the slots. They are data: the HTML
escapes every value, the Markdown every value too.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment

from mgh_ds.audit import charts
from mgh_ds.audit.agreement import SOUND_KAPPA, is_sound
from mgh_ds.audit.statistics import Estimate
from mgh_ds.common.templates import page_environment
from mgh_ds.common.token_counts import in_words
from mgh_ds.records.levels import LEVELS

_MARKDOWN_SYNTAX = re.compile(r"([\\`*_{}\[\]<>|#~$&])")


def html(figures: Mapping[str, Any]) -> str:
    """The page, self-contained; colours follow the reader's light or dark theme."""
    hardness, margins, judged = figures["hardness"], figures["margins"], figures["false_negatives"]
    targets = () if hardness["too_few"] else ("positive", "query")
    similarity = {target: charts.similarity_chart(hardness, target) for target in targets}
    above, false = margins["by_level"], judged.get("by_level")
    template = _environment(autoescape=True).get_template("audit.html.jinja")
    return template.render(
        audit=figures,
        levels=LEVELS,
        sound_kappa=SOUND_KAPPA,
        is_sound=is_sound,
        similarity_charts=similarity,
        above_chart=charts.share_chart(above, "Share above the positive by level") if above else None,
        false_chart=charts.share_chart(false, "Share of false negatives by level") if false else None,
    )


def markdown(figures: Mapping[str, Any]) -> str:
    """The same figures as tables, without the examples."""
    environment = _environment(autoescape=False, finalize=_markdown_text)
    return environment.get_template("audit.md.jinja").render(audit=figures, levels=LEVELS)


def interval(figure: Estimate) -> str:
    """A figure with its interval: 0.62 (0.60 to 0.64)."""
    text = f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
    return text.replace("-", "−")


def percent(figure: Estimate) -> str:
    """A share with its interval, in percent: 62.1 % (60.4 to 63.8)."""
    return f"{100 * figure['value']:.1f} % ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"


def figure(value: float | None) -> str:
    """A ratio that may have none: 0.83."""
    return "undefined" if value is None else f"{value:.2f}".replace("-", "−")


def tokens(cost: Mapping[str, Any], way: str) -> str:
    """What is known of a cost's tokens, `way` in or out, in words. Judges of earlier versions did not note
    how many answers were counted."""
    return in_words(cost[f"tokens_{way}"], cost.get(f"counted_{way}", 0), cost.get("answered", 0))


def _markdown_text(value: object) -> object:
    """A value of any origin as one line that Markdown takes literally."""
    return _MARKDOWN_SYNTAX.sub(r"\\\1", " ".join(value.split())) if isinstance(value, str) else value


def _environment(*, autoescape: bool, finalize: Callable[[object], object] | None = None) -> Environment:
    environment = page_environment(Path(__file__).parent, autoescape=autoescape, finalize=finalize)
    environment.filters |= {
        "interval": interval,
        "percent": percent,
        "figure": figure,
        "tokens": tokens,
        "per_sample": lambda value: "unknown" if value is None else f"{value:,.1f}",
        "count": lambda value: "unknown" if value is None else f"{value:,}",
    }
    return environment
