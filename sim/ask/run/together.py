"""Several jobs at once on one cluster: how long each of their steps takes, and how much of each link they use.

Public: `simulate_together`, `simulate_lasting`, `Together`, `JobSteps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.ask.run.shares import shared_out
from sim.engine.network import Network
from sim.inputs.records import Experiment
from sim.metrics.links import link_bytes, link_use_of
from sim.metrics.result import LinkUse
from sim.programs.assemble import assemble
from sim.programs.bracket import Tenant
from sim.programs.lasting import Lasting, lasting
from sim.programs.rounds import Rounds
from sim.programs.tenants import Tenants, settle
from sim.programs.trainer import Trainer

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class JobSteps:
    """Steps of one job: begins and ends, (n_steps,) s since the first job began."""

    name: str
    begins: Floats
    ends: Floats

    @property
    def step_s(self) -> Floats:
        """How long each step took, (n_steps,) s."""
        return self.ends - self.begins


@dataclass(frozen=True)
class Together:
    """What became of jobs that ran at once. links: used by all of them, means over the whole time.

    simulated: steps of each job that were simulated; the others are rounds like those before.
    """

    jobs: tuple[JobSteps, ...]
    links: tuple[LinkUse, ...]
    simulated: tuple[int, ...]

    @property
    def time(self) -> float:
        """When the last of them has ended [s]."""
        return max(float(job.ends[-1]) for job in self.jobs)


def simulate_together(
    experiments: Sequence[Experiment],
    steps: Sequence[int],
    *,
    after: Sequence[float] = (),
    priorities: Sequence[int] = (),
) -> Together:
    """Steps[j] steps of each job, from after[j] seconds on, on the cluster that all experiments name.

    Experiments are resolved and checked, and each places its ranks on accelerators of its own. priorities: of the
    traffic of each job, lower numbers strictly first; all share alike if absent. With `simulation.skip: off` in one of
    them, each step is simulated. Raises PlanError; Deadlock if a job cannot finish.
    """
    tenants = settle([shared_out(experiment) for experiment in experiments], priorities)
    options = [experiment.simulation for experiment in experiments]
    skip = all(each.skip == "auto" for each in options)
    network = Network(tenants.table, check=any(each.certificate for each in options))
    rounds = Rounds(network, skip=skip)
    trainings = [
        Trainer(
            rounds,
            each.program,
            steps[number],
            after=after[number] if after else 0.0,
            flow_ranks=each.flow_ranks,
            slowdown=each.slowdown,
            skip=skip,
        )
        for number, each in enumerate(_programs(tenants, skip))
    ]
    network.env.run()
    names = [experiment.name for experiment in experiments]
    jobs = tuple(
        JobSteps(name, np.array(training.begins), np.array(training.ends))
        for name, training in zip(names, trainings, strict=True)
    )
    time = max(float(job.ends[-1]) for job in jobs)
    carried = np.zeros(len(tenants.table.capacity))
    for training in trainings:
        if training.trace is not None:
            carried += len(training.ends) * link_bytes(training.trace)
    links = link_use_of(tenants.table, carried, network.peak_load(), time, tenants.cluster)
    return Together(jobs, links, tuple(training.simulated for training in trainings))


def simulate_lasting(
    experiments: Sequence[Experiment], most: int, *, after: Sequence[float] = (), priorities: Sequence[int] = ()
) -> Lasting:
    """How long their steps take if they all go on for ever; arguments as of `simulate_together`.

    most: steps of the quickest that are simulated at the most, where states do not recur. With `simulation.skip: off`
    nobody looks whether they do. Raises PlanError; Deadlock.
    """
    tenants = settle(experiments, priorities)
    skip = all(experiment.simulation.skip == "auto" for experiment in experiments)
    return lasting(_programs(tenants, skip), tenants.table, most, after)


def _programs(tenants: Tenants, skip: bool) -> list[Tenant]:
    """What each job runs, step after step."""
    return [
        Tenant(
            tenants.own_parts(number, assemble(job)),
            tuple(flow.members for flow in job.flows),
            job.plan.software.overlap_slowdown,
            skip,
        )
        for number, job in enumerate(tenants.jobs)
    ]
