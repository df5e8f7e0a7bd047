"""Energy and cost of a simulated job: of its whole training, with or without failures, else of one step.

Public: `Accounts`, `open_accounts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim.ask.run.step import Simulated
from sim.inputs.setup import Setup
from sim.life.life_inputs import Span
from sim.metrics.cost import Rented, cost_result
from sim.metrics.energy import Consumption, consumption, energy_result, power_levels, run_level
from sim.metrics.energy_run import SpanEnergy
from sim.metrics.energy_step import Activity
from sim.metrics.result import CostResult, EnergyResult, PowerLevel


@dataclass(frozen=True)
class Accounts:
    """What a job draws and costs, for any stretch of time and number of steps."""

    setup: Setup
    activity: Activity
    used: Consumption

    def whole(self, steps: int) -> tuple[Span, ...]:
        """Spans of `steps` steps that follow one another; at least one."""
        return self.used.whole(max(1, steps) * self.used.levels.step.seconds)

    def levels(self, rank: int, spans: Sequence[Span] = ()) -> dict[str, PowerLevel]:
        """Power over a step of an accelerator of class `rank` and what is above it; of the site over a life."""
        levels = power_levels(self.activity, self.used, rank)
        return levels | {"run": run_level(self.used, spans)} if spans else levels

    def bill(
        self, spent: SpanEnergy, steps: int, power: dict[str, PowerLevel], lived: bool
    ) -> tuple[EnergyResult, CostResult | None]:
        """Energy and cost of `steps` steps for which that was spent.

        lived: spares beside the cluster are paid for, and nodes that are down.
        """
        setup = self.setup
        tokens = steps * setup.step_tokens
        energy = energy_result(self.used, spent, tokens, power)
        rented = [self._rented(kind, lived) for kind in setup.kinds]
        return energy, cost_result(rented, setup.site, energy, spent.seconds, (steps, tokens))

    def _rented(self, kind: Setup, lived: bool) -> Rented:
        """Nodes and accelerators of a kind that are paid for; spares are of all kinds as the cluster is."""
        cluster, recovery = self.activity.job.plan.cluster, self.setup.experiment.recovery
        reserve = recovery.warm_spares + recovery.cold_spares if lived else 0
        share = max(1.0, (self.used.levels.nodes + reserve) / cluster.n_nodes)
        nodes = kind.cluster.nodes * share
        return Rented(kind.prices, nodes, nodes * kind.node.accelerators, kind.accelerator.name)


def open_accounts(run: Simulated) -> Accounts:
    """Accounts of a simulated step. Raises ConfigError if the file of the grid's intensity cannot be read."""
    setup, activity = run.setup, run.readings.activity
    return Accounts(setup, activity, consumption(activity, setup.site))
