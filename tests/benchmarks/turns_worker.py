"""A contender of the tests of `benchmarks.turns`: notes its turn in a file that all share."""

import json
import os
import sys
from pathlib import Path

from benchmarks.gate import Gate

job_file = Path(sys.argv[1])
job = json.loads(job_file.read_text())
gate = Gate(int(sys.argv[2]), job["rounds"])
for _ in range(job["rounds"]):
    if job["contender"] == job.get("fails"):
        sys.exit("the paper jams")
    with (job_file.parents[1] / "order").open("a") as order:
        order.write(job["contender"][0])
    gate.stop({"threads": os.environ["OMP_NUM_THREADS"], "mood": os.environ.get("MOOD")})
