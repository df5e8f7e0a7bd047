"""How long steps of jobs that share links take in the long run, without simulating every step.

Where the state of all jobs comes again, what lies between is all that ever happens, and its mean is exact. Else phases
drift, and the mean over lags is asked for. For two jobs the lag turns on a circle, and n steps lie on it evenly where n
is a denominator of the continued fraction of the ratio of their periods; k runs whose lags begin 1/(k n) of a turn
apart lie k times as densely. With one burst of traffic each their mean is off by at most what a job may lose in a step
over k n (Koksma's inequality; Denjoy's for k = 1), that of any other number of steps by much more. Otherwise runs go on
from one lag after another until means of batches agree, and say how far off they are.

Public: `lasting`, `Lasting`, `LongPace`, `even_steps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, inf, sqrt
from typing import Literal

import numpy as np
from simpy.events import Event

from sim.engine.executor import Runner
from sim.engine.fairness import Floats
from sim.engine.network import FlowTable, Network
from sim.programs.bracket import Tenant, alone, bracket, crowded, flows_of
from sim.programs.rounds import Rounds, Standing
from sim.programs.trainer import Trainer

ALIKE = 1e-9
BATCHES = 4
ENOUGH = 1e-3  # relative error at which nobody looks on
GOLDEN = (sqrt(5) - 1) / 2

Way = Literal["recurs", "even", "batches"]


@dataclass(frozen=True)
class LongPace:
    """Seconds of a step in the long run. low, high: whatever the phases, proved. error: how far off it may be [s].

    error: 0 where states recur; a bound for two jobs of one burst of traffic a step; two standard errors otherwise.
    """

    step: float
    low: float
    high: float
    error: float


@dataclass(frozen=True)
class Lasting:
    """Jobs that go on for ever. way: whether states recur, steps lie evenly, or batches are compared.

    simulated: steps, of all jobs.
    """

    paces: tuple[LongPace, ...]
    way: Way
    simulated: int


def lasting(tenants: Sequence[Tenant], table: FlowTable, most: int, after: Sequence[float] = ()) -> Lasting:
    """The long run of jobs of which each begins after[j] s from now; about `most` steps of the quickest at the most.

    Raises Deadlock if one of them cannot finish.
    """
    brackets, periods = bracket(tenants, table), [alone(tenant, table) for tenant in tenants]
    pair = len(tenants) == 2
    wanted = list(even_steps(periods[0], periods[1], most)) if pair else _in_a_period(periods)
    times = max(1, most // max(wanted))
    looked = [min(3, times) * n + 1 for n in wanted]  # a state that recurs does so soon
    runs = [_Meeting(tenants, table, looked, after or [0.0] * len(tenants))]
    if runs[0].round is not None:
        period, steps = runs[0].round
        means = [period / n if n else inf for n in steps]
        return Lasting(_paces(means, brackets, [0.0] * len(tenants)), "recurs", _simulated(runs))
    way: Way = "even" if pair and _turns(tenants, table) else "batches"
    lags = _even_lags(times, periods[1] / wanted[0]) if pair else _lags(times, periods)
    for lag in lags:
        if way == "batches" and _agree(_spans(runs, wanted)):
            break
        runs.append(_Meeting(tenants, table, wanted, lag))
    spans = _spans(runs, wanted)
    means = [float(span.mean()) for span in spans]
    loss = min(high - low for low, high in brackets)
    errors = [loss / len(span) if way == "even" else _batch_error(span) for span in spans]
    return Lasting(_paces(means, brackets, errors), way, _simulated(runs))


def even_steps(first: float, second: float, most: int) -> tuple[int, int]:
    """Steps of two periods [s] that take about as long as one another: the last convergent of at most `most` each."""
    ratio, (p, q), (p_before, q_before) = first / second, (1, 0), (0, 1)
    best = (1, max(1, round(ratio))) if ratio >= 1 else (max(1, round(1 / ratio)), 1)
    while True:
        whole = floor(ratio)
        p, q, p_before, q_before = whole * p + p_before, whole * q + q_before, p, q
        if max(p, q) > most:
            return best
        if p:
            best = q, p
        if ratio - whole < 1e-9:
            return best
        ratio = 1 / (ratio - whole)


def _in_a_period(periods: Sequence[float]) -> list[int]:
    """Steps of each job in a step of the slowest."""
    return [max(1, round(max(periods) / period)) for period in periods]


def _even_lags(times: int, turn: float) -> list[list[float]]:
    """Lags of the second of two jobs that divide `turn` [s] evenly, as evenly as can be from the first on."""
    return [[0.0, number * turn / times] for number in sorted(range(1, times), key=lambda n: n * GOLDEN % 1)]


def _lags(times: int, periods: Sequence[float]) -> list[list[float]]:
    """Lags of jobs that cover all of them together evenly (a sequence of Kronecker's)."""
    roots = [sqrt(prime) for prime in _primes(len(periods))]
    return [
        [number * root % 1 * period for root, period in zip(roots, periods, strict=True)] for number in range(1, times)
    ]


def _primes(n: int) -> list[int]:
    found: list[int] = []
    candidate = 2
    while len(found) < n:
        if all(candidate % prime for prime in found):
            found.append(candidate)
        candidate += 1
    return found


def _spans(runs: Sequence[_Meeting], wanted: Sequence[int]) -> list[Floats]:
    """Seconds of all steps of each job that count."""
    return [np.concatenate([run.spans[job][:n] for run in runs]) for job, n in enumerate(wanted)]


def _agree(spans: Sequence[Floats]) -> bool:
    """Whether batches of steps agree so well that nobody needs more."""
    return all(len(span) >= 2 * BATCHES and _batch_error(span) <= ENOUGH * span.mean() for span in spans)


def _simulated(runs: Sequence[_Meeting]) -> int:
    return sum(job.simulated for run in runs for job in run.jobs)


def _turns(tenants: Sequence[Tenant], table: FlowTable) -> bool:
    """Whether two jobs only turn against one another: a burst of traffic each where they meet, slowed alike."""
    rates = table.solo_rates() / crowded(tenants, table)
    mine = [{flow for stream in flows_of(tenant.program) for flow in stream} for tenant in tenants]
    meeting = [
        [flow for flow in own if table.sharing.meets(flow, frozenset(others))] for own, others in (mine, mine[::-1])
    ]
    if not all(len(flows) == 1 for flows in meeting) or table.priority:
        return False
    (first,), (second,) = meeting
    once = all(_times(tenant, flow) == 1 for tenant, flow in zip(tenants, (first, second), strict=True))
    return once and abs(rates[first] - rates[second]) < ALIKE * rates[first]


def _times(tenant: Tenant, flow: int) -> int:
    """How often a flow class moves bytes in a step."""
    program = tenant.program
    return sum(
        count
        for stream in program.streams
        for template, count in zip(stream.table, stream.counts, strict=True)
        if program.actions[program.templates[template].action].flow == flow
    )


def _paces(
    means: Sequence[float], brackets: Sequence[tuple[float, float]], errors: Sequence[float]
) -> tuple[LongPace, ...]:
    """A mean of few steps may lie outside of what is proved; no long one does."""
    return tuple(
        LongPace(min(max(mean, low), high), low, high, min(error, high - low))
        for mean, (low, high), error in zip(means, brackets, errors, strict=True)
    )


def _batch_error(span: Floats) -> float:
    """Two standard errors of the mean of steps [s], from the means of batches; of few steps, how far they are apart."""
    if len(span) < 2 * BATCHES:
        return float(np.ptp(span))
    means = [float(batch.mean()) for batch in np.array_split(span, BATCHES)]
    return 2 * float(np.std(means, ddof=1)) / sqrt(BATCHES)


class _Meeting(Rounds):
    """Jobs that go on until a state recurs or each has taken `wanted` steps since the last of them began.

    round: seconds and steps of each job between two equal states. spans: seconds of the steps of each that count.
    """

    def __init__(
        self, tenants: Sequence[Tenant], table: FlowTable, wanted: Sequence[int], after: Sequence[float]
    ) -> None:
        super().__init__(Network(table), skip=all(tenant.skip for tenant in tenants))
        env = self.network.env
        self.wanted, self.since = wanted, max(after)
        self.over = Event(env)
        self.round: tuple[float, tuple[int, ...]] | None = None
        for tenant, later in zip(tenants, after, strict=True):
            Trainer(
                self, tenant.program, after=later, flow_ranks=tenant.flow_ranks, slowdown=tenant.slowdown,
                skip=tenant.skip,
            )  # fmt: skip
        env.run(until=self.over)
        self.spans = [self._counted(job) for job in self.jobs]

    def _counted(self, job: Trainer) -> Floats:
        """Seconds of the steps that began when all jobs were there, and have ended."""
        first = sum(begin < self.since for begin in job.begins)
        return np.array(job.step_s[first:])

    def step_begins(self, job: Trainer) -> None:
        """See `Rounds`."""
        super().step_begins(job)
        pairs = zip(self.jobs, self.wanted, strict=True)
        if not self.over.triggered and all(len(self._counted(each)) >= n for each, n in pairs):
            self.over.succeed()

    def again(self, state: Standing, before: Standing, moved: Floats, runners: list[Runner]) -> bool:
        """See `Rounds`: what lies between is all that ever happens."""
        if not self.over.triggered and not moved.any():
            steps = tuple(b - a for a, b in zip(before.begun, state.begun, strict=True))
            self.round = state.now - before.now, steps
            self.over.succeed()
        return False
