"""Energy of a stretch of time that consists of spans: one step, a run, or a life with failures.

A span says what the job does and how many nodes are busy, idle and down. While it trains, its
accelerators draw what they draw in a step on average; while it stands still they poll, and while it
waits for nodes they are idle. Training on slowed parts is taken at the power of a healthy step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from sim.inputs.carbon import Grid
from sim.life.life_inputs import Span, State
from sim.metrics.energy_curve import SAMPLES, Floats, sampled
from sim.metrics.energy_plant import PARTS, Plant
from sim.metrics.energy_step import IDLE, PHASES, WAITING, StepEnergy

Site = tuple[str, int, int]  # phase of the run, nodes in the job, idle nodes
Watts = dict[str, float]
TRAINING = ("training", "redo")
WITHOUT_NODES = "waiting"  # the span in which the job waits for nodes


@dataclass(frozen=True)
class SpanEnergy:
    """Energy of some spans [J]: by part and by phase of the accelerators; carbon [kg].

    stretches: energy of the whole site and seconds in each phase of the run that occurred.
    """

    seconds: float
    parts: dict[str, float]
    phases: dict[str, float]
    stretches: dict[str, tuple[float, float]]
    carbon: float | None

    @property
    def joules(self) -> float:
        """Energy of everything."""
        return sum(self.parts.values())

    @property
    def states(self) -> dict[str, float]:
        """Mean power of the whole site in each phase of the run that occurred [W]."""
        return {phase: joules / seconds for phase, (joules, seconds) in self.stretches.items() if seconds}


@dataclass(frozen=True)
class Levels:
    """What the nodes of a job draw in each state.

    nodes: those of the job. idle, waiting: of one of its accelerators on average [W]; spare: of those that its nodes
    have beside them, all together [W].
    """

    plant: Plant
    step: StepEnergy
    nodes: int
    idle: float
    waiting: float
    spare: float
    # sites of a job are few, spans many
    known: dict[Site, tuple[Watts, Watts]] = field(default_factory=dict, compare=False)

    def accelerators(self, phase: str, busy: int) -> dict[str, float]:
        """Power of the accelerators of `busy` job nodes by phase [W]."""
        share = busy / self.nodes
        used = self.step.ranks * share
        drawn = dict.fromkeys(PHASES, 0.0)
        if phase in TRAINING:
            drawn |= {name: share * joules / self.step.seconds for name, joules in self.step.phases.items()}
        elif phase == WITHOUT_NODES:
            drawn[IDLE] = used * self.idle
        else:
            drawn[WAITING] = used * self.waiting
        drawn[IDLE] += share * self.spare
        return drawn

    def site(self, span: Span) -> Site:
        """What the power of the site depends on."""
        idle = max(span.spare_nodes, self.plant.cluster.n_nodes - span.busy_nodes - span.down_nodes)
        return span.phase, span.busy_nodes, idle

    def draw(self, site: Site) -> tuple[Watts, Watts]:
        """Power of a state by part, and of its accelerators by phase [W]."""
        if site not in self.known:
            phase, busy, idle = site
            running = self.accelerators(phase, busy)
            drawn = self.plant.draw(sum(running.values()), busy, idle)
            running[IDLE] += self.plant.unused(idle)
            self.known[site] = drawn, running
        return self.known[site]

    def whole(self, seconds: float) -> Span:
        """A span of nothing but training, all other nodes of the cluster idle."""
        return Span(
            0.0, seconds, "training", seconds, self.nodes, self.plant.cluster.n_nodes - self.nodes, 0, State(1, ())
        )


def span_energy(spans: Iterable[Span], levels: Levels, grid: Grid | None = None) -> SpanEnergy:
    """Energy of spans, every node of the cluster counted once; nodes that are down draw nothing."""
    parts, phases = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PHASES, 0.0)
    stretches: dict[str, tuple[float, float]] = {}
    lasted = defaultdict[Site, float](float)
    carbon = 0.0
    for span in spans:
        site = levels.site(span)
        lasted[site] += span.seconds
        if grid:
            carbon += sum(levels.draw(site)[0].values()) * span.seconds * grid.mean(span.start, span.end)
    for site, seconds in lasted.items():
        drawn, running = levels.draw(site)
        total = sum(drawn.values()) * seconds
        _add(parts, drawn, seconds)
        _add(phases, running, seconds)
        energy, time = stretches.get(site[0], (0.0, 0.0))
        stretches[site[0]] = energy + total, time + seconds
    return SpanEnergy(sum(lasted.values()), parts, phases, stretches, carbon if grid else None)


def run_curve(spans: Iterable[Span], levels: Levels) -> tuple[Floats, float]:
    """Power of the site over a run, means over equal samples [W], and the length of a sample [s]."""
    rows = [(span.start, span.end, sum(levels.draw(levels.site(span))[0].values()) * span.seconds) for span in spans]
    start, end, joules = np.array([row for row in rows if row[1] > row[0]]).T
    length = float(end.max())
    return sampled(start, end, joules / (end - start), length), length / SAMPLES


def _add(total: dict[str, float], watts: dict[str, float], seconds: float) -> None:
    for name, power in watts.items():
        total[name] += power * seconds
