"""MTEB tasks by name, with data from the Hugging Face hub; one that is out of reach is noticed in seconds."""

import contextlib
import math
import numbers
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import huggingface_hub
import mteb
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError
from mteb.abstasks.sts import AbsTaskSTS

from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.local_tasks import LAYOUTS

PATIENCE_SECONDS = 5.0


def hub_tasks(names: Sequence[str], languages: Sequence[str] = ("eng",)) -> list[Any]:
    """The named MTEB tasks, restricted to subsets wholly in `languages` (ISO 639-3), as in MTEB's English
    benchmark.

    Raises MghError for an unknown name (with the nearest one), a task without a subset in those languages,
    and a hub that does not answer.
    """
    tasks = described_tasks(names, languages)
    _require_hub(names)
    return tasks


def described_tasks(names: Sequence[str], languages: Sequence[str] = ("eng",)) -> list[Any]:
    """The same where nothing is to be loaded: the hub is not asked."""
    return [_hub_task(name, languages) for name in names]


def unreachable(names: Sequence[str], reason: object) -> MghError:
    """The error for data that the hub did not give."""
    return MghError(
        f"cannot load {', '.join(names)} from the hub {huggingface_hub.constants.ENDPOINT} ({reason}). "
        f"Give --data-dir (in a recipe evaluation.data_dir) with local folders (there is a layout for "
        f"{', '.join(LAYOUTS)}), or set HF_HUB_OFFLINE=1 if this machine's Hugging Face cache has the data "
        "already"
    )


def load_data(task: Any) -> None:
    """Reads a task's data now, once for every time it is scored.

    Raises MghError if they are out of reach or cannot be read, and for STS without a correlation: a score
    that is no finite number, or the same score in every row.
    """
    try:
        with data_of(task):
            task.load_data()
    except MghError:
        raise
    except Exception as error:  # other people's code reads other people's data
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise MghError(f"the data of task {task.metadata.name} cannot be read: {reason}") from error
    if isinstance(task, AbsTaskSTS):
        _check_scores(task)


@contextlib.contextmanager
def data_of(task: Any) -> Iterator[None]:
    """Says in one line what the hub did not give of a task's data."""
    try:
        yield
    except (ConnectionError, DatasetNotFoundError, HfHubHTTPError) as error:
        raise unreachable([task.metadata.name], error) from error


def _check_scores(task: AbsTaskSTS) -> None:
    data: Any = task.dataset
    for subset in task.hf_subsets or data:
        for split in task.eval_splits:
            scores = list(data.get(subset, data)[split]["score"])  # as mteb looks for them
            place = f"task {task.metadata.name}, subset {subset}, split {split}"
            for row, score in enumerate(scores):
                if not isinstance(score, numbers.Real) or not math.isfinite(score):
                    raise MghError(f"{place}: the score of row {row} is {score!r}, which is no finite number")
            if len(set(scores)) == 1:
                raise MghError(
                    f"{place}: every score is {scores[0]}, so that there is nothing to correlate with"
                )


def _hub_task(name: str, languages: Sequence[str]) -> Any:
    try:
        return mteb.get_task(name, languages=list(languages), exclusive_language_filter=True)
    except KeyError as error:  # its text names the nearest task
        raise MghError(f"task {str(error.args[0]).removeprefix('KeyError: ')}") from None
    except ValueError:
        has = sorted(mteb.get_task(name).languages)
        raise MghError(
            f"task {name} has no subset wholly in {', '.join(languages)}; "
            f"give --languages (in a recipe evaluation.languages) with some of {', '.join(has)}"
        ) from None


def _require_hub(names: Sequence[str]) -> None:
    """One request with a short time-out. The data loader would retry for half a minute a task."""
    if huggingface_hub.is_offline_mode():  # the user says that the data are in the cache
        return
    request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PATIENCE_SECONDS).close()
    except urllib.error.HTTPError:  # an answer, if a discouraging one: the loader finds out more
        return
    except (urllib.error.URLError, TimeoutError) as error:
        # a certificate that Python does not trust is an answer too, and the hub's own client may trust it
        if not isinstance(getattr(error, "reason", None), ssl.SSLError):
            raise unreachable(names, error) from None
