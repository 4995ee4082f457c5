"""`mgh-ds anchors`. It loads a model and draws a page, which know nothing of each other: it stands above the
rooms."""

import argparse
from pathlib import Path

from mgh_ds.common import files
from mgh_ds.common.errors import MghError

FIGURES, PAGE = "anchors.json", "anchors.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds anchors`."""
    parser.add_argument("model", metavar="MODEL", help="Hugging Face name, model folder or a run's folder")
    parser.add_argument(
        "--texts", required=True, type=Path, metavar="FILE", help="a text a line, as the model will read them"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        default=Path("runs/anchors"),
        help=f"gets {PAGE} and {FIGURES} (default: runs/anchors)",
    )
    parser.add_argument(
        "--causal",
        action="store_true",
        help="let a decoder's tokens see only what precedes them; default: as saved, else not",
    )
    parser.add_argument("--max-length", type=int, help="tokens a text is cut to; default: the model's own")
    parser.set_defaults(call=anchors_command)


def anchors_command(
    model: str, texts: Path, output: Path, causal: bool = False, max_length: int | None = None
) -> None:
    """Measures where a model's attention goes, and what each treatment of sinks would make of it.

    Args:
        model: a Hugging Face name, a model folder, or a run's folder.
        texts: a UTF-8 file with a text a line; empty lines are left out.
        output: the folder for the page and its figures; what it held of these is replaced.
        causal: let a decoder's tokens see only what precedes them; without it, as saved, else the whole text.
        max_length: tokens a text is cut to; without it, the model's own.

    Raises MghError for a file without texts, a folder that cannot be written to, and a model that cannot be
    loaded or gives NaN or infinity.
    """
    lines = read_texts(texts)
    files.require_writable(output, f"--output {output}")
    from mgh_ds.model.anchors import measure
    from mgh_ds.model.encoder import Encoder
    from mgh_ds.report.anchors import anchors_page

    encoder = Encoder.from_pretrained(model, bidirectional=False if causal else None, max_length=max_length)
    if causal and not encoder.causal:
        raise MghError(f"--causal is for decoders, and {model} is none")
    figures = measure(encoder, lines)
    page = anchors_page(figures)
    files.write_json(output / FIGURES, figures)
    files.write_text(output / PAGE, page)
    print(f"anchors: {output / PAGE}")


def read_texts(path: Path) -> list[str]:
    """The lines of a UTF-8 file that are not empty. Raises MghError if there is none, or no such file."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise MghError(f"{path} is no UTF-8 text (byte {error.start}): convert it first") from None
    except OSError as error:
        raise MghError(f"--texts {path} cannot be read ({error.strerror}): name a file of texts") from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise MghError(f"{path} holds no text: write one a line")
    return texts
