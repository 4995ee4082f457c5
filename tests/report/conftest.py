"""A plausible run folder, made by hand: what `mgh-ds report` is given in these tests."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

STAGES = [("level 1", 20, ["1"]), ("levels 2, 3", 32, ["2", "3"]), ("level 4", 28, ["4"])]
START = {"1": 0.955, "2": 0.83, "3": 0.77, "4": 0.60}  # accuracy at a stage's beginning
END = {"1": 0.995, "2": 0.93, "3": 0.89, "4": 0.79}
SENTENCES = [
    "why does bread dough rise slower in a cold kitchen",
    "the lease ends unless the tenant gives notice in writing",
    "glaciers retreat, unevenly, as summers lengthen",
]
CONFIG = """\
run: {name: kitchen, seed: 7}
model:
  name: tiny/encoder  # <b>not markup</b>
  pooling: ata
"""


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run folder under a temporary path; `without` names files to leave out."""

    def make(*without: str, name: str = "kitchen") -> Path:
        return write_run(tmp_path / name, without)

    return make


def write_run(folder: Path, without: tuple[str, ...] = ()) -> Path:
    """Writes a whole run folder of 80 steps in three stages, the same at every call."""
    rng = np.random.default_rng(7)
    (folder / "evaluation").mkdir(parents=True)
    files = {
        "config.yaml": CONFIG,
        "run.json": json.dumps(run_info()),
        "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in metrics(rng)),
        "evaluation/before.json": json.dumps(evaluation("before", {"1": 107, "2": 91, "3": 84, "4": 66})),
        "evaluation/after.json": json.dumps(evaluation("after", {"1": 108, "2": 99, "3": 96, "4": 83})),
        "token_weights.json": json.dumps(weighted(rng)),
    }
    for path, text in files.items():
        if path not in without:
            (folder / path).write_text(text, encoding="utf-8")
    return folder


def metrics(rng: np.random.Generator) -> list[dict]:
    """The lines of metrics.jsonl, with a checkpoint every 20 steps."""
    rows: list[dict] = []
    for stage, (name, count, levels) in enumerate(STAGES):
        for index in range(count):
            step = sum(1 for row in rows if row["kind"] == "step") + 1
            done = index / count
            seconds = (1.9 if step == 1 else 0.52) + 0.06 * rng.random()
            learned = 1 - np.exp(-3 * done)
            rows.append(
                {
                    "kind": "step",
                    "step": step,
                    "stage": stage,
                    "stage_name": name,
                    "loss": (0.55 + 0.5 * stage) * (1 - 0.55 * learned) + 0.05 * rng.standard_normal(),
                    "lr": 2e-4 * min(step / 8, (81 - step) / 73),
                    "grad_norm": 0.4 + 0.5 * (1 - learned) + 0.12 * rng.random(),
                    "seconds": seconds,
                    "texts_per_s": 128 / seconds,
                    "tokens_per_s": 128 * 41 / seconds,
                    "levels": {level: fare(level, learned, rng) for level in levels},
                    "statistics": {"masked_share": 0.001},
                }
            )
            if step % 20 == 0:
                rows.append({"kind": "checkpoint", "step": step, "seconds": 0.31, "bytes": 5_318_400})
    return rows


def evaluations() -> list[dict]:
    """Lines of metrics.jsonl: an evaluation every 20 steps; that of step 40 failed, that of 60 is best."""
    rows: list[dict] = []
    for step, score in ((0, 0.7), (20, 0.75), (40, None), (60, 0.875), (80, 0.85)):
        row = {"kind": "evaluation", "step": step, "label": f"step-{step:06d}", "seconds": 2.5}
        if score is None:
            rows.append(row | {"problem": "rank 1: the ink has dried up"})
            continue
        shares = {level: share + step / 2000 for level, share in START.items()}
        levels = {level: {"accuracy": share, "count": 108} for level, share in shares.items()}
        scores = {"HeldOutRetrieval": score, "SciFact": score - 0.25}
        rows.append(row | {"scores": scores, "levels": levels, "metric": "SciFact", "value": score - 0.25})
    return rows


@pytest.fixture
def evaluated_run(make_run: Callable[..., Path]) -> Path:
    """A run folder with evaluations in its log."""
    folder = make_run(name="evaluated")
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in evaluations())
    return folder


@pytest.fixture
def browsed_run(make_run: Callable[..., Path]) -> Path:
    """A run folder that keeps what four queries found."""
    folder = make_run(name="browsed")
    keep_retrieved(folder)
    return folder


def keep_retrieved(folder: Path) -> None:
    """Adds what four queries found, and the token weights of a part of that: the positive of the first rises
    from rank 9 to 1, that of the second falls, the others stay."""
    weighted = []
    for label, places in (("before", (9, 1, 1, 1)), ("after", (1, 2, 1, 1))):
        path = folder / "evaluation" / f"{label}.json"
        queries = [
            {"query": f"question {n}", "instruction": "Find what answers", "found": found_by(n, place, label)}
            for n, place in enumerate(places)
        ]
        content = json.loads(path.read_text()) | {"retrieved": {"documents": 40, "queries": queries}}
        path.write_text(json.dumps(content), encoding="utf-8")
        for text, instruction in (("question 0", "Find what answers"), ("the answer to 0", None)):
            tokens = text.split()
            weights = [(n + 1) * 2 / len(tokens) / (len(tokens) + 1) for n in range(len(tokens))]
            entry = {"label": label, "text": text, "instruction": instruction}
            weighted.append(entry | {"tokens": tokens, "weights": weights})
    (folder / "retrieved_weights.json").write_text(json.dumps(weighted), encoding="utf-8")


def found_by(number: int, place: int, label: str) -> list[dict]:
    """What query `number` finds: its positive at `place`, beside a negative and another query's text."""
    near, far = (rank for rank in (1, 2, 3) if rank != place) if place <= 3 else (1, 2)
    found = {
        place: {"text": f"the answer to {number}", "kind": "positive", "level": None},
        near: {"text": f"nearly {number}", "kind": "negative", "level": 4 if number == 0 else None},
        far: {"text": f"{label} something else", "kind": "other", "level": None},
    }
    return [{"rank": rank, "cosine": 1 - rank / 10, **found[rank]} for rank in sorted(found)]


def fare(level: str, learned: float, rng: np.random.Generator) -> dict:
    """One step's accuracy and margin on the 64 negatives of a level."""
    share = START[level] + (END[level] - START[level]) * learned
    margin = 0.5 * share - 0.28 + 0.09 * learned + 0.012 * rng.standard_normal()
    return {"accuracy": rng.binomial(64, share) / 64, "margin": margin, "count": 64}


def evaluation(label: str, right: dict[str, int]) -> dict:
    """before.json or after.json, with `right` of 108 negatives below the positive at each level."""
    retrieval, similarity = (0.812, 0.741) if label == "before" else (0.850, 0.734)
    return {
        "label": label,
        "model": "tiny/encoder",
        "pooling": "ata",
        "tasks": {
            "HeldOutRetrieval": {"metric": "ndcg_at_10", "score": retrieval},
            "HeldOutSTS": {"metric": "cosine_spearman", "score": similarity},
        },
        "levels": {
            level: {"accuracy": n / 108, "margin": n / 216 - 0.26, "count": 108} for level, n in right.items()
        },
    }


def weighted(rng: np.random.Generator) -> list[dict]:
    """token_weights.json: the sentences' words as tokens, the weights sharper after training than before."""
    rows = []
    for text in SENTENCES:
        words = ["[CLS]", *text.replace(",", " ,").split(), "[SEP]"]
        tokens = [
            piece for word in words for piece in ([word[:5], "##" + word[5:]] if len(word) > 8 else [word])
        ]
        drift = rng.standard_normal(len(tokens)) * [0.2 + 0.1 * len(token) for token in tokens]
        for label, sharpness in (("before", 0.35), ("after", 0.8)):
            weights = np.exp(sharpness * drift)
            rows.append(
                {
                    "label": label,
                    "text": text,
                    "tokens": tokens,
                    "weights": (weights / weights.sum()).tolist(),
                }
            )
    return rows


def run_info() -> dict:
    """run.json of the finished run."""
    return {
        "name": "kitchen",
        "model": "tiny/encoder",
        "world_size": 2,
        "device": "cpu",
        "versions": {"mgh-ds": "0.1.0", "python": "3.11.2", "torch": "2.13.0+cpu", "deepspeed": "0.19.8"},
        "started": "2031-05-04T09:30:00+00:00",
        "finished": "2031-05-04T09:31:13+00:00",
        "train_seconds": 73.4,
        "steps": 80,
        "global_batch": 64,
        "parameters": {"total": 22_860_416, "trainable": 147_456},
        "texts_per_s": 231.0,
        "tokens_per_s": 9471.0,
    }
