"""`mgh-ds encode`: its vectors, and the same bytes for any number of workers, however often one is killed."""

import json
import os
import signal
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest

from mgh_ds import cli
from mgh_ds.common import claims, files
from mgh_ds.common.errors import MghError
from mgh_ds.distributed.workers import Worker, take_gpu, this_worker
from mgh_ds.encoding import work
from mgh_ds.encoding.commands import encode_command
from mgh_ds.encoding.corpus import Corpus
from mgh_ds.encoding.settings import EncodingSettings
from mgh_ds.encoding.texts import survey
from mgh_ds.encoding.vectors import MANIFEST, Vectors
from mgh_ds.model import encoder as mgh_encoder
from tests.records.examples import write_jsonl

PART_ROWS = 4
ALONE = Worker()
TEXTS = [f"Text {number} of the harbour master, {'again ' * (number % 5)}at sunrise." for number in range(10)]


@pytest.fixture
def corpus(tmp_path):
    rows = [{"_id": f"d{number}", "text": text} for number, text in enumerate(TEXTS)]
    return write_jsonl(tmp_path / "corpus.jsonl", rows)


def begin(corpus, folder, encoder, **settings) -> Vectors:
    chosen = EncodingSettings(model="unused", **settings)
    found = survey(Corpus(corpus))
    return Vectors.begin(folder, work.describe(encoder, chosen, found, "document", None, {}, PART_ROWS))


def encode(corpus, folder, encoder, worker=ALONE, **settings) -> Vectors:
    vectors = begin(corpus, folder, encoder, **settings)
    work.encode_parts(vectors, Corpus(corpus), encoder, work.parts_of(worker, vectors.parts))
    return vectors


def content(folder: Path) -> dict[str, bytes]:
    """The files that are not hidden."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_vectors_are_the_encoders_in_the_order_of_the_corpus(corpus, encoder, tmp_path):
    made = encode(corpus, tmp_path / "vectors", encoder)
    found = np.concatenate([vectors for _, vectors in Vectors.open(made.folder)])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, encoder.encode(TEXTS), atol=1e-6)
    assert [name for part in range(made.parts) for name in made.ids(part)] == [f"d{n}" for n in range(10)]
    rows = np.array([9, 0, 5, 5])
    assert np.array_equal(made.take(rows), found[rows])


@pytest.mark.parametrize("padding_free", [True, False])
@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_batches_by_tokens_hold_what_fits_and_give_the_same_vectors(
    encoder, monkeypatch, padding_free, budget
):
    tokenizer, read = encoder.tokenizer, []
    monkeypatch.setattr(tokenizer, "padding_free", padding_free)
    lengths = sorted((len(row[0]) for row in tokenizer.rows(TEXTS)), reverse=True)
    expected = encoder.encode(TEXTS)
    collate = tokenizer.collate
    monkeypatch.setattr(
        tokenizer, "collate", lambda rows: read.append([len(r[0]) for r in rows]) or collate(rows)
    )
    monkeypatch.setattr(mgh_encoder, "TOKENIZED_AT_ONCE", 3)
    np.testing.assert_allclose(encoder.encode(TEXTS, batch_tokens=budget), expected, atol=1e-6)
    assert sorted(chain(*read), reverse=True) == lengths

    def size(batch):
        return sum(batch) if padding_free else len(batch) * max(batch)

    assert all(size(batch) <= budget or len(batch) == 1 for batch in read)
    assert all(size([*batch, after[0]]) > budget for batch, after in pairwise(read))
    assert len(read) == {1: 10, 10_000: 1}.get(budget, len(read))


def test_batches_by_tokens_are_the_same_for_any_number_of_workers(corpus, encoder, tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        for number in range(workers):
            vectors = begin(corpus, tmp_path / name, encoder)
            parts = work.parts_of(Worker(number, workers), vectors.parts)
            work.encode_parts(vectors, Corpus(corpus), encoder, parts, batch_tokens=30)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_dtype_and_dimensions_are_as_asked_for(corpus, encoder, tmp_path):
    whole = encoder.encode(TEXTS)
    encoder.model.cut_to(8)
    try:
        made = encode(corpus, tmp_path / "vectors", encoder, dtype="float16")
    finally:
        encoder.model.cut_to(None)
    found = np.concatenate([vectors for _, vectors in made])
    assert found.dtype == np.float16
    expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert EncodingSettings("tiny-random/mistral", dimensions=8).load().dim == 8
    with pytest.raises(MghError, match="dimensions is 65, but the model's embeddings have 1 to 64"):
        EncodingSettings("tiny-random/mistral", dimensions=65).load()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_any_number_of_workers_gives_the_same_bytes(corpus, encoder, tmp_path, count):
    encode(corpus, tmp_path / "one", encoder)
    for number in reversed(range(count)):
        encode(corpus, tmp_path / "many", encoder, Worker(number, count))
    assert content(tmp_path / "one") == content(tmp_path / "many")


def test_a_worker_makes_its_own_parts_alone_and_what_is_missing_is_said(corpus, encoder, tmp_path):
    made = encode(corpus, tmp_path / "vectors", encoder, Worker(1, 2))
    assert [made.is_done(part) for part in range(made.parts)] == [False, True, False]
    with pytest.raises(MghError, match=r"lacks 2 of 3 parts, the first being part-00000\.npy"):
        Vectors.open(made.folder)


@pytest.mark.parametrize("moment", range(6))
def test_killed_at_any_write_is_never_killed(corpus, encoder, tmp_path, moment):
    """Each part is two files: a process dies in the middle of the `moment`-th of them."""
    child = os.fork()
    if child == 0:  # a copy of this process, which kills itself
        written = iter(range(100))
        sync = os.fsync

        def die(descriptor):
            if next(written) == 2 + 2 * moment:  # the manifest's file and folder come before
                os.kill(os.getpid(), signal.SIGKILL)
            sync(descriptor)

        os.fsync = die
        encode(corpus, tmp_path / "killed", encoder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert any(path.name.startswith(".part") for path in (tmp_path / "killed").iterdir())
    encode(corpus, tmp_path / "killed", encoder)
    encode(corpus, tmp_path / "whole", encoder)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert not [path for path in (tmp_path / "killed").iterdir() if path.name.startswith(".")]


def test_finished_parts_are_not_encoded_again(corpus, encoder, tmp_path, monkeypatch):
    encode(corpus, tmp_path / "vectors", encoder, Worker(0, 2))
    asked = []
    true = type(encoder).encode

    def spy(self, texts, *arguments, **options):
        asked.extend(texts)
        return true(self, texts, *arguments, **options)

    monkeypatch.setattr(type(encoder), "encode", spy)
    encode(corpus, tmp_path / "vectors", encoder)
    assert asked == TEXTS[4:8]


def test_what_another_process_makes_is_waited_for(corpus, encoder, tmp_path, monkeypatch):
    vectors = begin(corpus, tmp_path / "vectors", encoder)
    held = files.hold(vectors.folder / ".part-00001.lock")
    waits = []

    def wait(_):  # the other process ends without having made it
        waits.append([vectors.is_done(part) for part in range(3)])
        held.close()

    monkeypatch.setattr(claims.time, "sleep", wait)
    waited = encode(corpus, tmp_path / "vectors", encoder)
    # It waits only when there was nothing else to make.
    assert waits == [[True, False, True]]
    assert all(waited.is_done(part) for part in range(3))


def test_vectors_of_another_corpus_or_model_are_refused(corpus, encoder, tmp_path):
    encode(corpus, tmp_path / "vectors", encoder)
    with pytest.raises(MghError, match=r"holds other vectors .dtype: float32 → float16.*another folder"):
        encode(corpus, tmp_path / "vectors", encoder, dtype="float16")
    other = write_jsonl(tmp_path / "other.jsonl", [{"_id": "1", "text": "One."}])
    with pytest.raises(MghError, match=r"holds other vectors .count: 10 → 1"):
        encode(other, tmp_path / "vectors", encoder)


def test_a_part_of_other_vectors_is_refused_by_name(corpus, encoder, tmp_path):
    encode(corpus, tmp_path / "vectors", encoder, dtype="float16")
    encode(corpus, tmp_path / "mixed", encoder, Worker(0, 2))
    for ending in ("npy", "json"):
        name = f"part-00001.{ending}"
        (tmp_path / "mixed" / name).write_bytes((tmp_path / "vectors" / name).read_bytes())
    with pytest.raises(MghError, match=r"part-00001\.json belongs to vectors of another corpus or model"):
        encode(corpus, tmp_path / "mixed", encoder)


def test_a_damaged_part_is_refused_by_name(corpus, encoder, tmp_path):
    made = encode(corpus, tmp_path / "vectors", encoder)
    data = bytearray(made.path(2).read_bytes())
    data[-1] ^= 1
    made.path(2).write_bytes(data)
    with pytest.raises(MghError, match=r"part-00002\.npy is missing or damaged"):
        Vectors.open(made.folder)


def test_the_verb_reads_queries_under_their_instruction(encoder, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # a rank without parts would make none
    monkeypatch.setenv("RANK", "0")
    folder = tmp_path / "beir"
    folder.mkdir()
    write_jsonl(folder / "corpus.jsonl", [{"_id": "d", "text": "A document."}])
    write_jsonl(folder / "queries.jsonl", [{"_id": "q", "text": "A query?"}])
    words = ["encode", str(folder), str(tmp_path / "out"), "--model", model, "--pooling", "mean"]
    cli.main([*words, "--as", "query", "--instruction", "Find it."])
    assert "1 vectors of 64 dimensions" in capsys.readouterr().out
    made = Vectors.open(tmp_path / "out")
    np.testing.assert_allclose(made.read(0), encoder.encode(["A query?"], "Find it."), atol=1e-6)
    assert made.manifest.side == "query"
    assert made.manifest.instruction == "Find it."
    assert made.manifest.model == encoder.origin["weights"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["named"]["corpus"] == [str(folder / "queries.jsonl")]


def test_a_folder_that_another_worker_begins_meanwhile_is_gone_on_with(
    corpus, encoder, tmp_path, monkeypatch
):
    folder = tmp_path / "vectors"
    exists = Path.exists

    def begun_meanwhile(path):
        found = exists(path)
        if path in (folder, folder / MANIFEST) and not found:
            monkeypatch.undo()
            begin(corpus, folder, encoder)
        return found

    monkeypatch.setattr(Path, "exists", begun_meanwhile)
    assert begin(corpus, folder, encoder).manifest == encode(corpus, folder, encoder).manifest


def test_a_folder_of_something_else_is_left_alone(corpus, model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(MghError, match="holds something else than vectors"):
        encode_command(corpus, tmp_path / "mine", model=model)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_the_verb_runs_a_graph_whose_vectors_are_told_from_torchs(corpus, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = tmp_path / "export"
    encoder = mgh_encoder.Encoder.from_pretrained("tiny-random/bert", device="cpu")
    encoder.save(model, onnx=True)
    words = ["encode", str(corpus), str(tmp_path / "out"), "--model", str(model), "--batch-tokens", "60"]
    cli.main([*words, "--backend", "onnx"])
    made = Vectors.open(tmp_path / "out")
    assert made.manifest.model.keys() >= {"model.safetensors", "onnx/model.onnx"}
    found = np.concatenate([vectors for _, vectors in made])
    np.testing.assert_allclose(found, encoder.encode(TEXTS), atol=1e-4)
    with pytest.raises(SystemExit, match=r"holds other vectors .*onnx/model\.onnx"):
        cli.main(words)
    with pytest.raises(SystemExit, match=r"runs on the CPU: leave device 'cuda' out"):
        cli.main([*words, "--backend", "onnx", "--device", "cuda"])


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Worker(0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "3"}, Worker(1, 3)),
        (
            {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_COUNT": "2"},
            Worker(1, 2),
        ),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}, Worker(3, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "1",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_PROCID": "1",
            },
            Worker(3, 6),
        ),
    ],
)
def test_a_worker_is_who_the_environment_says(environment, expected):
    assert this_worker(None, None, environment) == expected
    assert this_worker(2, 9, environment) == Worker(2, 9)


def test_workers_that_cannot_be_are_refused():
    with pytest.raises(MghError, match="belong together"):
        this_worker(1, None, {})
    with pytest.raises(MghError, match="--worker is 2: of 2 workers they are 0 to 1"):
        this_worker(2, 2, {})
    with pytest.raises(MghError, match="array has gaps"):
        this_worker(None, None, {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "2"})
    with pytest.raises(MghError, match="RANK is 'x', which is no number"):
        this_worker(None, None, {"RANK": "x"})


@pytest.mark.parametrize(
    ("gpus", "environment", "taken"),
    [
        (4, {"LOCAL_RANK": "2"}, [2]),
        (4, {"SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "3", "LOCAL_RANK": "1"}, [3]),
        (2, {"LOCAL_RANK": "3"}, [1]),
        (4, {"SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "3"}, []),
        (4, {}, []),
        (1, {"SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "3"}, []),
        (0, {"LOCAL_RANK": "1"}, []),
    ],
)
def test_workers_of_a_machine_take_a_gpu_each(gpus, environment, taken, monkeypatch):
    found = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("torch.cuda.set_device", found.append)
    take_gpu(environment)
    assert found == taken


def test_encode_takes_its_gpu_before_a_model_is_loaded(corpus, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", found.append)
    monkeypatch.setattr(EncodingSettings, "load", lambda *_, **__: pytest.fail(f"loaded on {found}"))
    for name, value in (("LOCAL_RANK", "1"), ("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(pytest.fail.Exception, match=r"loaded on \[1\]"):
        cli.main(["encode", str(corpus), str(tmp_path / "out"), "--model", "m"])
