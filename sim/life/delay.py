"""Times that vary: one draw of a `Delay`, and the scale of a distribution of given mean.

Public: `draw`, `weibull_scale`, `lognormal_median`.
"""

from __future__ import annotations

from math import exp, gamma

from sim.inputs.reliability import Delay
from sim.rng import Generator


def draw(delay: Delay, generator: Generator) -> float:
    """A time from the distribution of `delay` [s]."""
    match delay.kind:
        case "fixed":
            return delay.mean
        case "exponential":
            return float(generator.exponential(delay.mean))
        case "weibull":
            return weibull_scale(delay.mean, delay.shape) * float(generator.weibull(delay.shape))
        case "lognormal":
            return lognormal_median(delay.mean, delay.shape) * exp(delay.shape * float(generator.standard_normal()))


def weibull_scale(mean: float, shape: float) -> float:
    """Scale of a Weibull distribution: mean = scale * gamma(1 + 1/shape)."""
    return mean / gamma(1 + 1 / shape)


def lognormal_median(mean: float, sigma: float) -> float:
    """Median of a lognormal distribution: mean = median * exp(sigma**2 / 2)."""
    return mean * exp(-sigma * sigma / 2)
