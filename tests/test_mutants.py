"""Good experiments changed at random: `check` finds what is wrong, and what it passes can be simulated."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutants import Mutant, mutants, whole, written

from sim.api import check, simulate
from sim.errors import ConfigError

TORUS = (
    "cluster=torus-4x4x4", "nodes=64", "parallelism.tensor=1", "parallelism.sequence_parallel=false",
    "workload=gpt3-1.3b", "training.sequence_length=2048",
)  # fmt: skip
NUMBER = 200


@pytest.fixture(scope="module")
def changed() -> list[Mutant]:
    """The same mutants in every run."""
    bases = [whole("quickstart"), whole("quickstart", *TORUS), whole("small-graph"), whole("slow-input")]
    return list(mutants([("experiment", base) for base in bases], NUMBER, 1))


def test_check_and_run_agree_on_every_mutant(changed: list[Mutant], tmp_path: Path) -> None:
    refused = 0
    for mutant in changed:
        path = written(mutant, tmp_path)
        problems = check(path, "experiment")
        if problems:
            refused += 1
            with pytest.raises(ConfigError):
                simulate(path)
        else:
            assert simulate(path).step.time_s > 0, mutant.what
    assert 0.3 * NUMBER < refused < 0.9 * NUMBER
