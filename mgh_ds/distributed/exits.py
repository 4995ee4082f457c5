"""What a training job's exit code tells whoever started it: a person, a launcher or a scheduler; and how
a rank ends."""

import atexit
import os
import sys
from enum import IntEnum
from typing import NoReturn


class ExitCode(IntEnum):
    """0, 1 and 3 end the matter; after 75 and 76 the same command goes on where the run was."""

    FINISHED = 0
    MEND = 1  # the recipe, the data or the disk: starting again would end the same way
    SCORES_MISSING = 3  # trained and exported, but an evaluation failed: the log says which and why
    STOPPED = 75  # was asked to stop and has saved (BSD's EX_TEMPFAIL)
    RANK_LOST = 76  # a rank died or fell silent


def end_rank(code: int) -> NoReturn:
    """Ends a rank whose work is done, once everything that was registered for its end has run.

    The interpreter does not take itself down: gloo's threads outlive their group, and now and then a
    process aborts there ("terminate called without an active exception"), after which a launcher reports a
    finished run as failed.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
