"""How often to save: closed forms for the time between checkpoints.

Public: `young`, `daly`. All times in seconds (any one unit).
"""

from __future__ import annotations

from math import sqrt


def young(write: float, mtbf: float) -> float:
    """Training time between saves, first order (Young, CACM 17(9), 1974)."""
    return sqrt(2 * write * mtbf)


def daly(write: float, mtbf: float) -> float:
    """The same to higher order (Daly, FGCS 22(3), 2006, eq. 37); the MTBF where a save takes two of them."""
    if write >= 2 * mtbf:
        return mtbf
    ratio = write / (2 * mtbf)
    return sqrt(2 * write * mtbf) * (1 + sqrt(ratio) / 3 + ratio / 9) - write
