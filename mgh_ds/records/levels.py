"""The levels of difficulty of graded negatives (paper, section 3.1). All other places derive from here."""

LEVELS = (1, 2, 3, 4)
"""From the easiest to the hardest: 1 is easy, the ones between are medium, the last is hard. They count up
from 1; 0 stands for a negative without a grade wherever levels are kept as numbers."""

EASIEST, HARDEST = LEVELS[0], LEVELS[-1]
MEDIUM = LEVELS[1:-1]
