"""Without a hub: local and held-out tasks never ask for it, hub tasks say so at once."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from datasets import Dataset, DatasetDict

from mgh_ds import Encoder
from mgh_ds.common.errors import MghError
from mgh_ds.evaluation import hub_tasks as hub
from mgh_ds.evaluation.commands import eval_command
from mgh_ds.evaluation.run import evaluate, evaluate_heldout
from mgh_ds.records.schema import Record


@pytest.fixture
def hub_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes the offline mode that the tests run in, so that only the missing network can stop a request."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.mark.usefixtures("hub_allowed")
def test_local_and_held_out_tasks_use_no_network(
    minilm: Encoder,
    records: list[Record],
    data_dir: Path,
    tmp_path: Path,
    no_network: Callable[[], list[str]],
) -> None:
    evaluate_heldout(minilm, records, label="before", progress=False)
    eval_command(
        "sentence-transformers/all-MiniLM-L6-v2",
        ["STS17", "SciFact", "XQuADRetrieval", "Banking77Classification"],
        tmp_path / "result.json",
        pooling="mean",
        data_dir=data_dir,
    )
    assert no_network() == []


@pytest.mark.usefixtures("hub_allowed")
def test_hub_out_of_reach_is_said_within_seconds(no_network: Callable[[], list[str]]) -> None:
    begin = time.monotonic()
    with pytest.raises(MghError) as error:
        hub.hub_tasks(["NFCorpus"])
    assert time.monotonic() - begin < 10
    assert len(no_network()) == 1
    for part in ("NFCorpus", huggingface_hub.constants.ENDPOINT, "--data-dir", "STS17, SICK-R, SciFact"):
        assert part in str(error.value)


def test_data_missing_from_the_cache_is_said_too(minilm: Encoder) -> None:
    assert huggingface_hub.is_offline_mode()  # set by tests/conftest.py: the hub is not tried
    for name in ("NFCorpus", "STSBenchmark"):  # the two ways in which mteb loads data
        with pytest.raises(MghError, match=rf"cannot load {name} from the hub.*--data-dir"):
            evaluate(minilm, hub.hub_tasks([name]), label="t", progress=False)


@pytest.mark.parametrize(
    ("name", "languages", "subsets"),
    [
        ("STS17", ["eng"], ["en-en"]),
        ("STS17", ["spa"], ["es-es"]),
        ("STS17", ["eng", "deu"], ["en-de", "en-en"]),
    ],
)
def test_subsets_are_those_wholly_in_the_languages(
    name: str, languages: list[str], subsets: list[str]
) -> None:
    (task,) = hub.hub_tasks([name], languages)
    assert task.hf_subsets == subsets


def test_unknown_task_is_answered_with_the_nearest() -> None:
    with pytest.raises(MghError, match=r"'SciFacts' not found\. Did you mean: 'SciFact'"):
        hub.hub_tasks(["SciFacts"])


def test_task_without_the_language_says_which_it_has() -> None:
    with pytest.raises(MghError, match=r"GermanDPR has no subset wholly in eng; give --languages.*deu"):
        hub.hub_tasks(["GermanDPR"])


def test_data_that_their_own_code_cannot_read_are_said_in_a_line() -> None:
    class Task:
        metadata = SimpleNamespace(name="NFCorpus")

        def load_data(self) -> None:
            raise KeyError("no\ncolumn")

    with pytest.raises(MghError, match=r"the data of task NFCorpus cannot be read: KeyError: 'no\\ncolumn'"):
        hub.load_data(Task())


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, 2.0, math.nan], "the score of row 2 is nan, which is no finite number"),
        ([1.0, math.inf, 3.0], "the score of row 1 is inf, which is no finite number"),
        ([None, 2.0, 3.0], "the score of row 0 is None, which is no finite number"),
        ([2.5, 2.5, 2.5], "every score is 2.5, so that there is nothing to correlate with"),
    ],
)
def test_scores_that_are_none_are_named_before_anything_is_encoded(
    minilm: Encoder, monkeypatch: pytest.MonkeyPatch, scores: list[float | None], message: str
) -> None:
    rows = {"sentence1": ["a", "b", "c"], "sentence2": ["d", "e", "f"], "score": scores}
    rows |= {"lang": ["en-en"] * 3}  # which mteb takes away from STS17
    published = DatasetDict(test=Dataset.from_dict(rows))
    monkeypatch.setattr("mteb.abstasks.abstask.load_dataset", lambda **_: published)
    monkeypatch.setattr(minilm, "encode", lambda *_, **__: pytest.fail("a text is encoded"))
    for name, subset in (("STS17", "en-en"), ("STSBenchmark", "default")):
        tasks = hub.described_tasks([name])
        with pytest.raises(MghError, match=f"^task {name}, subset {subset}, split test: {message}"):
            evaluate(minilm, tasks, label="t", progress=False)
        with pytest.raises(MghError, match=message):
            hub.load_data(tasks[0])
