"""`mgh-ds anchors`: its figures are those of the attention matrices, its page shows them, and bad input
leaves nothing behind."""

import json
from pathlib import Path

import pytest
import torch

from mgh_ds.cli import main
from mgh_ds.common.errors import MghError
from mgh_ds.model import anchors
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.pooling import Pooling
from mgh_ds.model.tiny import make_tiny_model
from mgh_ds.report.anchors import anchors_page
from tests.model.test_attention import eager_model
from tests.report.test_page import EVIL, Page

TEXTS = ["The harbour master, asleep?", "Why?", "!! ..."]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    for family in ("bert", "mistral"):
        make_tiny_model(family, root / family)
    return {family: root / family for family in ("bert", "mistral")}


@pytest.mark.parametrize(("family", "causal"), [("bert", False), ("mistral", False), ("mistral", True)])
@torch.no_grad()
def test_the_shares_are_those_of_eager_attentions(
    folders: dict[str, Path], family: str, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchors, "BATCH", 2)  # so that there are two
    encoder = Encoder.from_pretrained(folders[family], bidirectional=not causal, device="cpu")
    figures = anchors.measure(encoder, TEXTS)
    assert (figures["causal"], figures["texts"], figures["pooled_layers"]) == (
        causal,
        3,
        [figures["layers"] - 1],
    )
    reference = eager_model(folders[family], bidirectional=not causal)
    shares = torch.zeros(len(anchors.KINDS), figures["layers"], figures["heads"])
    tokens = torch.zeros(len(anchors.KINDS))
    for text in TEXTS:
        ids = encoder.tokenizer.tokenize([text]).input_ids
        found = torch.cat(reference(ids[None], output_attentions=True).attentions)  # [L, H, query, key]
        special = set(encoder.tokenizer.backend.all_special_ids)
        for place, token in enumerate(ids.tolist()):
            word = encoder.tokenizer.backend.decode([token]).strip()
            mark = word != "" and all(letter in "!?.,:;" for letter in word)
            kind = 0 if place == 0 else 1 if token in special else 2 if mark else 3
            shares[kind] += found[..., place].mean(-1) / len(TEXTS)
            tokens[kind] += 1 / len(ids) / len(TEXTS)
    for kind, share, count in zip(anchors.KINDS, shares, tokens, strict=True):
        torch.testing.assert_close(
            torch.tensor(figures["kinds"][kind]["attention"]), share, atol=1e-5, rtol=1e-4
        )
        assert figures["kinds"][kind]["tokens"] == pytest.approx(count.item(), abs=1e-6)
    assert (tokens > 0).all()
    torch.testing.assert_close(shares.sum(0), torch.ones_like(shares[0]))


@torch.no_grad()
def test_the_weights_are_the_encoders_own_under_each_treatment(folders: dict[str, Path]) -> None:
    """Also for a model that was saved with another pooling, and one that pools other layers and tokens."""
    for saved in (
        {"pooling": "mean"},
        {"pooling": "ata", "sink": "clip", "clip_multiple": 1.2, "column_transform": "sqrt"},
    ):
        options = {"include_bos": False, "device": "cpu", **({"layers": [0, -1]} if len(saved) > 1 else {})}
        encoder = Encoder.from_pretrained(folders["bert"], **saved, **options)
        model, batch = encoder.model, encoder.tokenizer.tokenize(TEXTS[:1])
        own, figures = model.pooling.config, anchors.measure(encoder, TEXTS)
        assert model.pooling.config == own
        assert [text["text"] for text in figures["shown"]] == TEXTS
        for transform, by_sink in figures["shown"][0]["weights"].items():
            for sink, weights in by_sink.items():
                model.pooling = Pooling(own.replace(method="ata", column_transform=transform, sink=sink))
                torch.testing.assert_close(torch.tensor(weights), model.token_weights(batch))
                assert len(weights) == len(figures["shown"][0]["tokens"])
                assert weights[0] == 0


def test_a_page_and_its_figures_are_written(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text(f"\ufeff{TEXTS[0]}\r\n\n  \n{EVIL}\n")
    words = ["anchors", str(folders["mistral"]), "--texts", str(texts), "--output", str(tmp_path / "out")]
    main([*words, "--causal"])
    assert capsys.readouterr().out == f"anchors: {tmp_path / 'out' / 'anchors.html'}\n"
    figures = json.loads((tmp_path / "out" / "anchors.json").read_text())
    assert [text["text"] for text in figures["shown"]] == [TEXTS[0], EVIL]
    html = (tmp_path / "out" / "anchors.html").read_text()
    page = Page(html)
    assert html == anchors_page(figures)
    cells = [attrs["title"] for attrs in page.all("td") if "layer" in attrs.get("title", "")]
    assert len(cells) == 4 * figures["layers"] * figures["heads"]
    assert cells[0] == f"layer 0, head 0: {100 * figures['kinds']['first']['attention'][0][0]:.0f} %"
    assert len([row for row in page.rows if row[0] == "identity"]) == 2 * 3
    assert "Attention is causal" in page.text
    assert "<script>alert('x')</script>" in page.text
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert "http" not in html.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, [], "cannot be read"),
        (b"", [], "holds no text"),
        (b" \n\n", [], "holds no text"),
        (b"caf\xe9", [], r"no UTF-8 text \(byte 3\)"),
        (b"a text", ["--causal"], "--causal is for decoders, and .*bert is none"),
        (b"a text", ["--max-length", "0"], "max_length must be a whole number"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing_behind(
    folders: dict[str, Path], tmp_path: Path, content: bytes | None, options: list[str], message: str
) -> None:
    texts = tmp_path / "texts.txt"
    if content is not None:
        texts.write_bytes(content)
    words = ["anchors", str(folders["bert"]), "--texts", str(texts), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=message):
        main([*words, *options])
    assert not list(tmp_path.glob("out/*"))


def test_attention_that_is_no_number_is_refused(folders: dict[str, Path]) -> None:
    encoder = Encoder.from_pretrained(folders["mistral"], device="cpu")
    with torch.no_grad():
        encoder.model.get_parameter("backbone.layers.0.self_attn.q_proj.weight").fill_(torch.nan)
    with pytest.raises(MghError, match="holds NaN or infinity"):
        anchors.measure(encoder, TEXTS)


def test_what_has_no_token_has_no_attention(folders: dict[str, Path]) -> None:
    encoder = Encoder.from_pretrained(folders["mistral"], device="cpu")
    with pytest.raises(MghError, match="no text"):
        anchors.measure(encoder, [])
    encoder.tokenizer.appends = False
    encoder.tokenizer.backend.add_bos_token = False
    with pytest.raises(MghError, match="text 1 has no token: ''"):
        anchors.measure(encoder, ["A word.", ""])
