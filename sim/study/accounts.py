"""Energy and cost of a simulated run: of its whole training, with or without failures, else of one step."""

from __future__ import annotations

from collections.abc import Sequence

from sim.engine.ranks import Job
from sim.engine.trace import Trace
from sim.metrics.cost import cost_result
from sim.metrics.energy import consumption, energy_result, power_levels, run_level
from sim.metrics.energy_step import activity_of
from sim.metrics.result import CostResult, EnergyResult
from sim.run.life_inputs import Span
from sim.spec.setup import Setup


def accounts(
    job: Job, trace: Trace, rank: int, steps: int, spans: Sequence[Span] = ()
) -> tuple[EnergyResult, CostResult | None]:
    """Energy and cost of `steps` steps, which took `spans`; without spans they follow one another.

    rank: class of the accelerator whose power over time is shown. Spares beside the cluster are paid for, and
    nodes that are down. Raises ConfigError if the file of the grid's carbon intensity cannot be read.
    """
    setup, cluster = Setup(job.plan.experiment), job.plan.cluster
    activity = activity_of(trace, job)
    used = consumption(activity, setup.site)
    step_tokens = setup.training.global_batch * setup.training.sequence_length
    happened = tuple(spans) or used.whole(max(1, steps) * trace.time)
    levels = power_levels(activity, used, rank)
    if spans:
        levels["run"] = run_level(used, spans)
    energy = energy_result(used, happened, steps * step_tokens, levels)
    seconds = sum(span.seconds for span in happened)
    recovery = setup.experiment.recovery
    reserve = recovery.warm_spares + recovery.cold_spares if spans else 0
    nodes = max(cluster.n_nodes, used.levels.nodes + reserve)
    size = nodes, nodes * cluster.accelerators_per_node
    cost = cost_result(setup.prices, setup.site, energy, seconds, size, (steps, steps * step_tokens))
    return energy, cost
