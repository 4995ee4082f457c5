"""What a training job's exit code tells whoever started it: a person, a launcher or a scheduler."""

from enum import IntEnum


class ExitCode(IntEnum):
    """0, 1 and 3 end the matter; after 75 and 76 the same command goes on where the run was."""

    FINISHED = 0
    MEND = 1  # the recipe, the data or the disk: starting again would end the same way
    SCORES_MISSING = 3  # trained and exported, but an evaluation failed: the log says which and why
    STOPPED = 75  # was asked to stop and has saved (BSD's EX_TEMPFAIL)
    RANK_LOST = 76  # a rank died or fell silent
