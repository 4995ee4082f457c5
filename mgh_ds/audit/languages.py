"""Languages: the one asked for against the one found in query and positive."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

from mgh_ds.audit.inputs import EXAMPLES, Bools, Float32s, Progress, excerpt, with_progress
from mgh_ds.records.schema import Record

SURE = 0.9  # probability from which a finding counts
MIN_CHARS = 40  # shorter texts are too little to tell a language by
MOST_PAIRS = 20

# Written languages that an identifier cannot keep apart, or that have two codes, count as one.
SAME = {
    "arb": "ar", "ary": "ar", "arz": "ar", "cmn": "zh", "yue": "zh", "wuu": "zh", "nb": "no", "nn": "no",
    "bs": "sh", "hr": "sh", "sr": "sh", "id": "ms", "in": "ms", "fil": "tl", "iw": "he", "hbo": "he",
    "nso": "st", "uzs": "uz", "sdh": "ku", "gug": "gn", "ltg": "lv", "gom": "kok", "mo": "ro",
}  # fmt: skip


@dataclass(frozen=True)
class Languages:
    """For each record [n] the language found, its probability, whether a verdict can be given at all (the
    text is long enough, the language asked for is known to the identifier), and whether it is "wrong"."""

    found: list[str]
    probability: Float32s
    judged: Bools
    wrong: Bools


def identify(records: Sequence[Record], progress: Progress) -> Languages:
    """Identifies the language of query and positive together."""
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = {same(code) for code in identifier.labels}
    found: list[str] = []
    probability = np.empty(len(records), np.float32)
    judged, wrong = (np.zeros(len(records), np.bool_) for _ in range(2))
    for row, record in enumerate(with_progress(records, "languages", progress)):
        text = f"{record.query}\n{record.positive}"
        code, probability[row] = identifier.classify(text)
        found.append(code)
        judged[row] = len(text) >= MIN_CHARS and same(record.language) in known
        wrong[row] = judged[row] and probability[row] >= SURE and same(code) != same(record.language)
    return Languages(found, probability, judged, wrong)


def same(tag: str) -> str:
    """A BCP-47 tag's language without region and script, indistinguishable ones as one."""
    primary = tag.split("-")[0].lower()
    return SAME.get(primary, primary)


def languages(records: Sequence[Record], found: Languages) -> dict[str, Any]:
    """Records asked for by language, the wrong ones among them, and what was found instead."""
    asked, wrong, instead = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    examples: list[dict[str, Any]] = []
    for record, code, is_wrong, probability in zip(
        records, found.found, found.wrong.tolist(), found.probability.tolist(), strict=True
    ):
        asked[record.language] += 1
        if is_wrong:
            wrong[record.language] += 1
            instead[record.language, code] += 1
            if len(examples) < EXAMPLES:
                examples.append(_example(record, code, probability))
    return {
        "asked": {tag: {"records": count, "wrong": wrong[tag]} for tag, count in asked.most_common()},
        "wrong": wrong.total(),
        "not_judged": int((~found.judged).sum()),
        "found_instead": [
            {"asked": tag, "found": code, "records": count}
            for (tag, code), count in instead.most_common(MOST_PAIRS)
        ],
        "sure_from": SURE,
        "min_chars": MIN_CHARS,
        "examples": examples,
    }


def _example(record: Record, code: str, probability: float) -> dict[str, Any]:
    return {
        "id": record.id,
        "asked": record.language,
        "found": code,
        "probability": round(probability, 4),
        "query": excerpt(record.query),
        "positive": excerpt(record.positive),
    }
