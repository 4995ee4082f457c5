"""The levels of difficulty of graded negatives (paper, section 3.1); every other place derives from this."""

LEVELS = (1, 2, 3, 4)
"""From the easiest to the hardest: 1 is easy, the ones between are medium, the last is hard. They count up
from 1; 0 stands for a negative without a grade wherever levels are kept as numbers."""
