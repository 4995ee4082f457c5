"""`make demo` as a newcomer runs it: in time, with the files it promises, and with a model that got
better."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

LIMIT = 8 * 60  # seconds on two cores


@pytest.mark.system
@pytest.mark.timeout(2 * LIMIT)
def test_the_demo_trains_a_model_that_is_better_on_hard_negatives() -> None:
    started = time.monotonic()
    finished = subprocess.run(
        ["make", "demo"], text=True, capture_output=True, timeout=2 * LIMIT, check=False
    )
    seconds = time.monotonic() - started
    print(finished.stdout[-3000:])
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert seconds < LIMIT, f"the demo took {seconds:.0f} s"

    run = Path("runs/demo")
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    stages = [entry["stage_name"] for entry in steps if entry["kind"] == "step"]
    assert list(dict.fromkeys(stages)) == ["levels 1, 2, 3, 4"]
    before, after = (
        json.loads((run / "evaluation" / f"{label}.json").read_text()) for label in ("before", "after")
    )
    assert after["levels"]["4"]["margin"] > before["levels"]["4"]["margin"]
    assert after["levels"]["4"]["accuracy"] > before["levels"]["4"]["accuracy"]
    assert after["levels"]["4"]["count"] >= 72
    for task in ("HeldOutRetrieval", "HeldOutReranking", "HeldOutSTS"):
        assert after["tasks"][task]["score"] > before["tasks"][task]["score"]
    assert (
        "The weights lie between its own (0.5) and the backbone's."
        in (run / "export" / "README.md").read_text()
    )
    assert (run / "report.html").is_file()
    assert (run / "export" / "model.safetensors").is_file()
    assert re.search(r"[\d,]+ texts/s, [\d,]+ tokens/s on 2 ranks", finished.stdout)
