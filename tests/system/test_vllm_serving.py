"""Exports in vLLM itself: vectors equal to those of `Encoder`, the server, and what is refused."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from mgh_ds.distributed.group import free_port
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.weights import MINILM, SMOLLM2
from tests.system.smollm2 import needs_smollm2
from tests.system.vllm_embeddings import INSTRUCTION, LEAST_COSINE, QUIET, part, run_job, texts_of_all_lengths
from tests.system.vllm_marks import ENGINES

pytestmark = [*ENGINES, pytest.mark.timeout(900)]

README, SERVING = Path("README.md"), Path("docs/serving.md")
EXPORT, USUAL_ADDRESS = "runs/demo/export", "http://127.0.0.1:8000"
READERS = os.environ | QUIET | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
"""The environment of somebody who types what the README says."""


def readme_command(word: str) -> str:
    """The README's line that has the word, without its comment."""
    lines = README.read_text(encoding="utf-8").splitlines()
    (command,) = [line for line in lines if word in line.split("#")[0] and not line.startswith(("`", " "))]
    return command.split("  #")[0]


class Served(NamedTuple):
    """What vLLM gave for texts and, after them, for some of these below the instruction; and `Encoder`."""

    vectors: dict[str, NDArray[np.float32]]  # by dtype
    wanted: NDArray[np.float32]
    pooled: NDArray[np.float32]  # those below the instruction, if its tokens were pooled
    refused: list[str]


REFUSED = [
    ({"enable_prefix_caching": True}, "leave out --enable-prefix-caching"),
    ({"enable_chunked_prefill": True}, "leave out --enable-chunked-prefill"),
    ({"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}, "leave out --tensor-parallel-size"),
    ({"max_model_len": 200}, "takes prompts of at most 128 tokens"),
    ({"hf_overrides": {"architectures": ["BertModel"]}}, "mgh-ds for its own pooling"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """MiniLM with a pooling that has something of everything, in both precisions."""
    folder = tmp_path_factory.mktemp("served")
    encoder = Encoder.from_pretrained(
        MINILM, "ata", column_transform="log1p", sink="clip", max_length=128, include_instruction=False
    )
    encoder.save(folder / "export")
    texts = texts_of_all_lengths(500, 160)
    told = [encoder.tokenizer.prefix(INSTRUCTION) + text for text in texts[:100]]
    export = folder / "export"
    embed = [part(export, dtype, texts + told, folder / f"{dtype}.npy") for dtype in LEAST_COSINE]
    vectors, refused = run_job(folder, embed, [(str(export), options) for options, _ in REFUSED])
    some = texts[: len(told)]
    wanted = [encoder.encode(texts), encoder.encode(some, instruction=INSTRUCTION)]
    pooling = Encoder.from_pretrained(folder / "export", include_instruction=True)
    pooled = pooling.encode(some, instruction=INSTRUCTION)
    return Served(dict(zip(LEAST_COSINE, vectors, strict=True)), np.concatenate(wanted), pooled, refused)


@pytest.mark.parametrize("dtype", LEAST_COSINE)
def test_the_vectors_are_those_of_the_encoder(dtype: str, served: Served) -> None:
    vectors = served.vectors[dtype]
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    assert (vectors * served.wanted).sum(axis=1).min() >= LEAST_COSINE[dtype]
    # Pooled with its tokens the instruction would be seen.
    told = vectors[-len(served.pooled) :]
    assert np.median((told * served.pooled).sum(axis=1)) < 0.99


def test_what_vllm_may_not_do_is_refused_before_it_starts(served: Served) -> None:
    for found, (_, words) in zip(served.refused, REFUSED, strict=True):
        assert found.startswith("MghError: "), found
        assert words in found


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README has its export, a decoder turned bidirectional; its tokenizer does not close a text,
    and we do."""
    folder = tmp_path_factory.mktemp("smollm2") / EXPORT
    folder.parent.mkdir(parents=True)
    Encoder.from_pretrained(SMOLLM2, column_transform="sqrt", sink="first", max_length=64).save(folder)
    return folder


@needs_smollm2
def test_a_decoder_in_bfloat16_gives_the_same_vectors(smollm2: Path, tmp_path: Path) -> None:
    """As `Encoder` in bfloat16: beside states of 17,000 rounding alone moves vectors of a few tokens to a
    cosine of 0.986 to float32."""
    encoder = Encoder.from_pretrained(smollm2, device="cpu", dtype="bfloat16")
    texts = texts_of_all_lengths(200, 90)
    told = [encoder.tokenizer.prefix(INSTRUCTION) + text for text in texts[:50]]
    wanted = np.concatenate([encoder.encode(texts), encoder.encode(texts[:50], instruction=INSTRUCTION)])
    output = tmp_path / "vectors.npy"
    (vectors,), _ = run_job(tmp_path, [part(smollm2, "bfloat16", texts + told, output)])
    assert (vectors * wanted).sum(axis=1).min() >= LEAST_COSINE["bfloat16"]


@pytest.fixture(scope="module")
def address(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the server that the README starts, in a folder that has its export, but at a port that is free."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    command = f"exec {readme_command('api_server')} --port {port}"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            ["bash", "-c", command],
            cwd=smollm2.parents[2],
            env=READERS | {"VLLM_CACHE_ROOT": str(folder / "cache")},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_it_answers(server, port, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_until_it_answers(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    import httpx

    until = time.monotonic() + 600
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text(errors="replace")[-4000:]
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(log.read_text(errors="replace")[-4000:])


def ask(command: str, address: str) -> NDArray[np.float32]:
    """The vectors that a command with curl gets."""
    done = subprocess.run(
        ["bash", "-c", command.replace(USUAL_ADDRESS, address)],
        env=READERS,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return np.array([one["embedding"] for one in json.loads(done.stdout)["data"]], dtype=np.float32)


@needs_smollm2
def test_the_commands_of_readme_and_docs_are_answered(address: str, smollm2: Path) -> None:
    encoder = Encoder.from_pretrained(smollm2)
    wanted = encoder.encode(["A text"])
    assert (ask(readme_command("curl"), address) * wanted).sum() >= LEAST_COSINE["float32"]
    (command,) = re.findall(r"^```bash\n(curl .*?)^```", SERVING.read_text(encoding="utf-8"), re.M | re.S)
    wanted = np.concatenate(
        [
            encoder.encode(["How tall is the Eiffel Tower?"], instruction="Retrieve the answer."),
            encoder.encode(["It is 330 metres tall."]),
        ]
    )
    found = ask(command, address)
    assert found.shape == wanted.shape
    assert (found * wanted).sum(axis=1).min() >= LEAST_COSINE["float32"]


@needs_smollm2
def test_the_server_speaks_openai_and_gives_the_same_vectors(address: str, smollm2: Path) -> None:
    import openai

    encoder = Encoder.from_pretrained(smollm2)
    texts = texts_of_all_lengths(40, 90)
    told = [encoder.tokenizer.prefix(INSTRUCTION) + text for text in texts]
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
        answer = client.embeddings.create(
            model=EXPORT, input=texts + told, extra_body={"truncate_prompt_tokens": -1}
        )
        vectors = np.array([one.embedding for one in answer.data], dtype=np.float32)
        wanted = np.concatenate([encoder.encode(texts), encoder.encode(texts, instruction=INSTRUCTION)])
        assert (vectors * wanted).sum(axis=1).min() >= LEAST_COSINE["float32"]
        # 63 tokens, to which comes the EOS; without the word to cut, longer ones are refused.
        with pytest.raises(openai.BadRequestError, match="maximum context length is 63 tokens"):
            client.embeddings.create(model=EXPORT, input="boat " * 200)
