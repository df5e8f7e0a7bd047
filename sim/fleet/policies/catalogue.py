"""The policies by name; one more is a file beside these, entered here. Others are named `module:function` or `module:Class`.

A function of one's own takes the live jobs and the time, and gives them back in the order in which they get boards.

Public: `POLICIES`, `policy_of`, `policy_called`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from sim.errors import ConfigError, Problem
from sim.fleet.jobs import FleetJob
from sim.fleet.policies.conservative import Conservative
from sim.fleet.policies.easy import Easy
from sim.fleet.policies.fifo import Fifo
from sim.fleet.policies.first_fit import FirstFit
from sim.fleet.policies.las import LeastAttained, LeastAttainedService, LeastAttainedTime
from sim.fleet.policies.policy import FleetView, Policy, live_jobs
from sim.fleet.policies.sjf import ShortestJob
from sim.fleet.policies.srtf import ShortestRemainingService, ShortestRemainingTime

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
}
