"""`mgh-ds synth` for job scripts, where the command itself may not be on the path.

    python launch/synthesize.py run DIR --shard 3

The verbs are those of `mgh-ds synth --help`, and so are the exit codes: 75 says that a worker was told to
stop, and that the same command goes on with the rest.
"""

import sys

from mgh_ds.cli import main

if __name__ == "__main__":
    main(["synth", *sys.argv[1:]])
