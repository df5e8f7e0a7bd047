"""Over PCIe the trust band reaches to the step at the rate that too few channels leave."""

from __future__ import annotations

import pytest

from sim.ask.run import channels
from sim.ask.run.simulate import simulate
from sim.ask.run.single import run_experiment
from sim.inputs.load import load_experiment

PLAN = [
    "nodes=1", "parallelism.tensor=1", "parallelism.sequence_parallel=false", "workload=gpt3-1.3b", "software=nanogpt",
    "training.global_batch=16", "training.microbatch=1", "training.sequence_length=1024",
]  # fmt: skip
HALF = ["local.efficiency=0.415", "pcie.staged_efficiency=0.32", "pcie.socket_bandwidth=12 GB/s"]


def overrides(cluster: str) -> list[str]:
    return [f"cluster={cluster}", *PLAN]


def test_the_band_reaches_to_half_the_rate() -> None:
    """NCCL's default reached 22.2 of 37.6 GB/s on eight boards of two sockets (voipmonitor/rtx6kpro)."""
    given = overrides("pcie-8x-4090")
    plain = simulate(load_experiment("quickstart", overrides=given).experiment)
    halved = [f"cluster.node.{change}" for change in HALF]
    slowed = simulate(load_experiment("quickstart", overrides=[*given, *halved]).experiment)
    told = run_experiment("quickstart", given)
    assert told.trust
    assert told.step.time_s == plain.step.time_s
    assert told.trust.band == pytest.approx(slowed.step.time_s / plain.step.time_s - 1, rel=1e-9)
    assert told.trust.extrapolates[0] == channels.SAID


@pytest.mark.parametrize("cluster", ["dgx-a100", "pcie-2x-4090"])
def test_nothing_changes_without_sums_over_pcie(cluster: str) -> None:
    alone = ["cluster.node.accelerators=1", "cluster.node.nics.count=1"] if cluster.startswith("pcie") else []
    given = [*overrides(cluster), *alone]
    plain = simulate(load_experiment("quickstart", overrides=given).experiment)
    assert run_experiment("quickstart", given).trust == plain.trust


def test_what_takes_long_is_told_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "MOST_EVENTS", 0)
    given = overrides("pcie-8x-4090")
    plain = simulate(load_experiment("quickstart", overrides=given).experiment)
    told = run_experiment("quickstart", given).trust
    assert told
    assert plain.trust
    assert (told.band, told.extrapolates[0]) == (plain.trust.band, channels.TOO_DEAR)
