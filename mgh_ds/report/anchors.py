"""The page of `mgh-ds anchors`: heat maps of where the attention goes, and the weights of a few texts."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mgh_ds.report.page import environment
from mgh_ds.report.token_weights import HeatMap, common_cap, heat_map

TITLES = {
    "first": "First token",
    "special": "Other special tokens",
    "punctuation": "Punctuation",
    "rest": "The rest",
}


@dataclass(frozen=True)
class Row:
    """A layer: the share of each head's attention, and their mean."""

    heads: Sequence[float]
    mean: float


@dataclass(frozen=True)
class LayerMap:
    """What one kind of token receives: a row a layer, what the last layer gives on average, and its share of
    the tokens."""

    title: str
    rows: Sequence[Row]
    tokens: float

    @property
    def last(self) -> float:
        return self.rows[-1].mean


@dataclass(frozen=True)
class Weights:
    tokens: list[str]
    weights: list[float]


@dataclass(frozen=True)
class TreatedText:
    """One text's heat maps, by column transform and sink."""

    text: str
    transforms: Mapping[str, Mapping[str, HeatMap]]


def anchors_page(figures: Mapping[str, Any]) -> str:
    """The HTML of `figures`, which are those of `anchors.json`. The template engine escapes every value."""
    given = [
        {
            transform: {sink: Weights(text["tokens"], weights) for sink, weights in treated.items()}
            for transform, treated in text["weights"].items()
        }
        for text in figures["shown"]
    ]
    cap = common_cap(weights for text in given for treated in text.values() for weights in treated.values())
    texts = [
        TreatedText(
            shown["text"],
            {
                transform: {sink: heat_map(weights, cap) for sink, weights in treated.items()}
                for transform, treated in text.items()
            },
        )
        for shown, text in zip(figures["shown"], given, strict=True)
    ]
    maps = [layer_map(TITLES[kind], found) for kind, found in figures["kinds"].items()]
    template = environment().get_template("anchors.html.jinja")
    return template.render(figures=figures, maps=maps, texts=texts, cap=cap)


def layer_map(title: str, found: Mapping[str, Any]) -> LayerMap:
    rows = [Row(heads, statistics.fmean(heads)) for heads in found["attention"]]
    return LayerMap(title, rows, found["tokens"])
