"""Whether a decoded experiment makes sense; all problems are reported at once.

Public: `check_experiment`, `CHECKS`. The checks themselves are in the modules it imports.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.errors import Problem
from sim.inputs.cluster_checks import CLUSTER_CHECKS
from sim.inputs.energy_checks import ENERGY_CHECKS
from sim.inputs.file_checks import FILE_CHECKS
from sim.inputs.findings import Check
from sim.inputs.forward import FORWARD_CHECKS
from sim.inputs.plan_checks import PLAN_CHECKS
from sim.inputs.preparation import PREPARATION_CHECKS
from sim.inputs.records import Experiment
from sim.inputs.reliability_checks import RELIABILITY_CHECKS
from sim.inputs.storage_checks import STORAGE_CHECKS
from sim.inputs.synchronization import SYNCHRONIZATION_CHECKS

CHECKS: tuple[Check, ...] = (
    *PLAN_CHECKS, *CLUSTER_CHECKS, *STORAGE_CHECKS, *RELIABILITY_CHECKS, *ENERGY_CHECKS, *FILE_CHECKS,
    *SYNCHRONIZATION_CHECKS, *PREPARATION_CHECKS, *FORWARD_CHECKS,
)  # fmt: skip


def check_experiment(experiment: Experiment, checks: Sequence[Check] = CHECKS) -> list[Problem]:
    """All semantic problems of a resolved experiment, in the order of `checks`."""
    setup = experiment.setup
    return [problem for check in checks for problem in check(setup)]
