"""Whether a result that an output folder already holds is the one that is asked for."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mgh_ds.common.differences import differences
from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.fingerprint import Fingerprint
from mgh_ds.evaluation.results import EvaluationResult


def check_asked(held: Mapping[Path, EvaluationResult], output: Path, asked: Mapping[str, Any]) -> None:
    """Raises MghError for a result of another model, or under other options, than asked for: both figures are
    wanted, so neither may take the other's place. An option that was not given is None."""
    for result in held.values():
        for name, wanted in asked.items():
            found = _found(result, name, wanted)
            if wanted != found:
                raise MghError(
                    f"{output} holds results with {name} {_words(found)}, asked for was {_words(wanted)}: "
                    "name another folder"
                )


def check_unmarked(held: Iterable[EvaluationResult], output: Path, made: Mapping[str, Any]) -> None:
    """Raises MghError for a result without a fingerprint that says of itself that it was made otherwise than
    `made` says of the model at hand: what was not asked for by name may still be another figure."""
    for result in held:
        for name, now in made.items():
            found = getattr(result, name, result.settings.get(name))
            if not result.fingerprint and found is not None and found != now:
                raise MghError(
                    f"{output} holds results with {name} {_words(found)}, and this model has {_words(now)}: "
                    "name another folder"
                )


def stands(path: Path, result: EvaluationResult, expected: Fingerprint) -> bool:
    """Whether `result`, which `path` holds, is that of the `expected` fingerprint; a printed line says what
    has changed where it is not. One without a fingerprint may be of anything, and does not stand either."""
    if not result.fingerprint:
        print(f"{path} is scored anew, since it does not say what it was made of")
        return False
    changed = [difference.key for difference in differences(result.fingerprint, expected)]
    if changed:
        print(f"{path} is scored anew, since it was made of another {', '.join(changed)}")
    return not changed


def _found(result: EvaluationResult, name: str, wanted: Any) -> Any:
    """What a result was made with; of one without a fingerprint, what it says of itself. It does not say
    whether that was asked for, so an option that is not asked for now fits."""
    if name == "label":
        return result.label
    if result.fingerprint:
        return result.fingerprint["settings"].get(name)
    if wanted is None:
        return None
    return getattr(result, name, result.settings.get(name))


def _words(value: Any) -> str:
    return "not given" if value is None else str(value)
