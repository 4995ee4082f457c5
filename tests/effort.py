"""How hard the tests that draw at random try: as long as CI can wait, or, with MGH_DS_LONG=1, as a release
deserves."""

import os

from hypothesis import settings

LONG = os.environ.get("MGH_DS_LONG") == "1"
KILLS = 50 if LONG else 12  # random moments at which a rank is killed
PLANS = settings(max_examples=10_000 if LONG else 500, deadline=None)  # random plans for each promise
MIXTURES = settings(max_examples=2000 if LONG else 40, deadline=None)  # random mixtures of sources
