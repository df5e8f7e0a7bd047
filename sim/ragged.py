"""Runs of whole numbers laid end to end, as rows of ragged tables are numbered.

Public: `ranges`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def ranges(first: NDArray[np.int64], width: NDArray[np.int64]) -> NDArray[np.int64]:
    """first[i], first[i] + 1, and so on, width[i] of them, for each i in turn: (sum of width,).

    >>> ranges(np.array([7, 0]), np.array([2, 3])).tolist()
    [7, 8, 0, 1, 2]
    """
    return np.arange(width.sum()) + np.repeat(first - np.cumsum(width) + width, width)
