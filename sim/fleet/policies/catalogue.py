"""The policies by name; one more is a file beside these, entered here. One's own is `module:function`, `module:Class`.

A function of one's own takes the live jobs and the time, and gives them back in the order in which they get boards.

Public: `POLICIES`, `policy_called`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from sim.errors import ConfigError, Problem
from sim.fleet.jobs import FleetJob
from sim.fleet.policies.conservative import Conservative
from sim.fleet.policies.easy import Easy
from sim.fleet.policies.elastic import Elastic
from sim.fleet.policies.fair_share import FairShare
from sim.fleet.policies.fifo import Fifo
from sim.fleet.policies.first_fit import FirstFit
from sim.fleet.policies.las import LeastAttained, LeastAttainedService, LeastAttainedTime
from sim.fleet.policies.max_min import MaxMin, MaxMinKinds
from sim.fleet.policies.policy import FleetView, Policy, live_jobs
from sim.fleet.policies.priority import ByDeadline, ByPriority
from sim.fleet.policies.quota import ByQuota
from sim.fleet.policies.sjf import ShortestJob
from sim.fleet.policies.srtf import ShortestRemainingService, ShortestRemainingTime
from sim.fleet.policies.themis import FinishTimeFairness
from sim.inputs.problems import near

POLICIES: dict[str, type[Policy]] = {
    "fifo": Fifo,
    "first_fit": FirstFit,
    "easy": Easy,
    "conservative": Conservative,
    "sjf": ShortestJob,
    "srtf": ShortestRemainingTime,
    "srsf_gputime": ShortestRemainingService,
    "las": LeastAttained,
    "dlas_time": LeastAttainedTime,
    "dlas_gputime": LeastAttainedService,
    "priority": ByPriority,
    "deadline": ByDeadline,
    "quota": ByQuota,
    "fair_share": FairShare,
    "themis": FinishTimeFairness,
    "max_min": MaxMin,
    "max_min_kinds": MaxMinKinds,
    "elastic": Elastic,
}
Order = Callable[[Sequence[FleetJob], float], Sequence[FleetJob]]


def policy_called(name: str) -> type[Policy]:
    """The policy of a name, one's own as `module:name`. Raises ConfigError without a place."""
    if ":" not in name:
        if name not in POLICIES:
            close = near(name, sorted(POLICIES))
            message = f"no policy is called {name[:80]!r}"
            raise ConfigError(Problem("", "scheduler.policy", message, f"{close}; one's own is `module:function`"))
        return POLICIES[name]
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        way_out = "the module is looked for where Python looks, such as the current folder with PYTHONPATH=."
        raise ConfigError(Problem("", "scheduler.policy", f"{name[:80]!r} is not found: {error}", way_out)) from None
    if isinstance(found, type) and issubclass(found, Policy):
        return found
    if not callable(found):
        raise ConfigError(Problem("", "scheduler.policy", f"{name[:80]!r} is neither a function nor a Policy"))
    return _by_order(found)


def _by_order(order: Order) -> type[Policy]:
    """The policy that a function of live jobs and the time makes."""

    class OwnOrder(Policy):
        preempts = True

        def schedule(self, fleet: FleetView) -> None:
            live = live_jobs(fleet)
            try:
                given = list(order(tuple(live), fleet.now))
            except Exception as error:  # whatever a function of the user does
                raise ConfigError(Problem("", "scheduler.policy", f"raised {type(error).__name__}: {error}")) from error
            if any(job not in live for job in given):
                raise ConfigError(Problem("", "scheduler.policy", "gave back something that is not one of its jobs"))
            fleet.run_only(given)

    return OwnOrder
