"""What one room asks of a model that another room brings."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Embed = Callable[[list[str]], npt.NDArray[np.float32]]
"""A list of n texts to float32 [n, dim], rows of unit length."""

ScorePairs = Callable[[list[tuple[str, str]]], npt.NDArray[np.floating]]
"""A list of n pairs (query, document) to n probabilities of relevance, float [n]."""
