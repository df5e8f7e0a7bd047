"""When and where something fails: a stream of candidate events, in order of time.

Public: `Strike`, `strikes`, `frailties`, `count_parts`.

Exponential modes are one Poisson process over all parts. The others give each part a clock of its own
that has run for long: its first failure comes after the residual of a gap (Cox, Renewal Theory, 1962,
ch. 5), so that failures come at the stated mean rate from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush, merge
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.inputs.reliability import FailureMode, Failures, Frailty
from sim.life.delay import lognormal_median, weibull_scale
from sim.rng import Generator, stream

Floats = NDArray[np.float64]
BLOCK = 512  # events drawn at a time
NODE_PARTS = ("accelerator", "nic", "cable", "node")


class Strike(NamedTuple):
    """Something fails: `place` is a slot of the job, or the number of a switch; `part` counts inside the node.

    It comes about only if `luck` (uniform) is below the frailty of the node there over the worst one.
    """

    time: float
    mode: int
    place: int
    part: int
    luck: float


def frailties(frailty: Frailty | None, n_nodes: int, seed: int) -> Floats:
    """Relative rate of faults of each node, (n_nodes,), of mean 1; lemons are drawn by chance."""
    weights = np.ones(n_nodes)
    if frailty is not None:
        n_lemons = round(frailty.nodes * n_nodes)
        if 0 < n_lemons < n_nodes:
            lemons = stream(seed, "failures/lemons").permutation(n_nodes)[:n_lemons]
            weights[:] = (1 - frailty.faults) * n_nodes / (n_nodes - n_lemons)
            weights[lemons] = frailty.faults * n_nodes / n_lemons
    return weights


def count_parts(mode: FailureMode, parts: dict[str, int], n_slots: int, n_switches: int) -> tuple[int, int]:
    """Places where `mode` can strike, and parts in each."""
    match mode.component:
        case "job":
            return 1, 1
        case "switch":
            return n_switches, 1
        case "node":
            return n_slots, 1
        case component:
            return n_slots, parts.get(component, 0)


def strikes(
    failures: Failures,
    counts: list[tuple[int, int]],
    worst: float,
    frailty_at: Callable[[int], float],
    seed: int,
) -> Iterator[Strike]:
    """Events of all modes, by time, without end.

    counts: `count_parts` of each mode. worst: largest frailty. frailty_at(slot): that of the node now there.
    """
    sources: list[Iterator[Strike]] = [_poisson(failures.modes, counts, worst, seed)]
    for number, mode in enumerate(failures.modes):
        if mode.law != "exponential" and counts[number][0] * counts[number][1]:
            weigh = frailty_at if mode.component in NODE_PARTS else _alike
            sources.append(_renewals(number, mode, counts[number], weigh, stream(seed, f"failures/{number}")))
    return merge(*sources)


def _alike(_: int) -> float:
    return 1.0


def _poisson(
    modes: tuple[FailureMode, ...], counts: list[tuple[int, int]], worst: float, seed: int
) -> Iterator[Strike]:
    """Exponential modes together. Nodes are struck as if all were the worst; `luck` thins that out."""
    chosen = [i for i, mode in enumerate(modes) if mode.law == "exponential" and counts[i][0] * counts[i][1]]
    if not chosen:
        return
    places = np.array([counts[i][0] for i in chosen])
    parts = np.array([counts[i][1] for i in chosen])
    thinned = np.array([worst if modes[i].component in NODE_PARTS else 1.0 for i in chosen])
    rates = places * parts * thinned / np.array([modes[i].mtbf for i in chosen])
    total, shares = rates.sum(), np.cumsum(rates) / rates.sum()
    generator, now = stream(seed, "failures/poisson"), 0.0
    while True:
        times = now + np.cumsum(generator.exponential(1 / total, BLOCK))
        now = float(times[-1])
        kind = np.minimum(np.searchsorted(shares, generator.random(BLOCK), side="right"), len(chosen) - 1)
        place = (generator.random(BLOCK) * places[kind]).astype(np.int64)
        part = (generator.random(BLOCK) * parts[kind]).astype(np.int64)
        luck = generator.random(BLOCK) * thinned[kind] / worst
        number = np.array(chosen)[kind]
        yield from map(Strike, times.tolist(), number.tolist(), place.tolist(), part.tolist(), luck.tolist())


def _renewals(
    number: int,
    mode: FailureMode,
    count: tuple[int, int],
    frailty_at: Callable[[int], float],
    generator: Generator,
) -> Iterator[Strike]:
    """Every part with its own clock, started anew when it fails."""
    places, parts = count
    weights = np.repeat([frailty_at(place) for place in range(places)], parts)
    first = _residuals(mode, len(weights), generator) / weights
    order = np.argsort(first, kind="stable")
    waiting = ((float(first[i]), int(i)) for i in order)
    again: list[tuple[float, int]] = []
    fresh = next(waiting, None)
    while fresh or again:
        if fresh and (not again or fresh <= again[0]):
            (time, index), fresh = fresh, next(waiting, None)
        else:
            time, index = heappop(again)
        place, part = divmod(index, parts)
        yield Strike(time, number, place, part, 0.0)
        heappush(again, (time + _gap(mode, generator) / max(frailty_at(place), 1e-12), index))


def _residuals(mode: FailureMode, n: int, generator: Generator) -> Floats:
    """Time from a random moment to the next failure: a uniform share of a gap drawn by its length, (n,) s."""
    uniform, shape = generator.random(n), mode.shape
    if mode.law == "weibull":
        longer = generator.gamma(1 + 1 / shape, size=n) ** (1 / shape)
        return uniform * longer * weibull_scale(mode.mtbf, shape)
    longer = np.exp(shape * generator.standard_normal(n) + shape * shape)
    return uniform * longer * lognormal_median(mode.mtbf, shape)


def _gap(mode: FailureMode, generator: Generator) -> float:
    if mode.law == "weibull":
        return weibull_scale(mode.mtbf, mode.shape) * float(generator.weibull(mode.shape))
    return lognormal_median(mode.mtbf, mode.shape) * float(np.exp(mode.shape * generator.standard_normal()))
