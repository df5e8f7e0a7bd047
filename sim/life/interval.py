"""How often to save: closed forms for the time between checkpoints.

Public: `young`, `daly_2003`, `daly`, `expected_total_time`, `expected_ettr`. All times in seconds (any one unit).
"""

from __future__ import annotations

from math import exp, expm1, sqrt


def young(write: float, mtbf: float) -> float:
    """Training time between saves, first order (Young, CACM 17(9), 1974)."""
    return sqrt(2 * write * mtbf)


def daly_2003(write: float, mtbf: float, restart: float) -> float:
    """The same with the restart counted (Daly, ICCS 2003)."""
    return sqrt(2 * write * (mtbf + restart)) - write


def daly(write: float, mtbf: float) -> float:
    """The same to higher order (Daly, FGCS 22(3), 2006, eq. 37); the MTBF where a save takes two of them."""
    if write >= 2 * mtbf:
        return mtbf
    ratio = write / (2 * mtbf)
    return sqrt(2 * write * mtbf) * (1 + sqrt(ratio) / 3 + ratio / 9) - write


def expected_total_time(work: float, interval: float, write: float, restart: float, mtbf: float) -> float:
    """Time to do `work` under exponential failures that also strike saves and restarts (Daly 2006, eq. 20)."""
    return mtbf * exp(restart / mtbf) * expm1((interval + write) / mtbf) * work / interval


def expected_ettr(interval: float, write: float, restart: float, mtbf: float) -> float:
    """Productive share of the time, `expected_total_time` turned round (Kokolis et al., HPCA 2025, call it ETTR)."""
    return 1 / expected_total_time(1.0, interval, write, restart, mtbf)
