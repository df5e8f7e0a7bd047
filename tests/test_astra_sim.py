"""The same collectives as ASTRA-sim's analytical backend, one chunk at a time, in simulated nanoseconds.

The numbers are answers of ASTRA-sim 2.0 (Won et al., ISPASS 2023, arXiv 2303.14006), run with its own
inputs: 1 GiB, chunks one after another (active-chunks-per-dimension 1: with more, its congestion-unaware
backend moves bytes faster than the links). Its units: 50 GB/s is 50 * 2^30 B/s; local memory 1600 GB/s is
1.6e12 B/s. Each step of its rings pays the hops, 10 ns at the endpoint and, where it reduces, three
passes of the message through local memory; those two are given here as start-up per ring step, the
links and the algorithm are ours. Our start-up is paid before the bytes move and theirs between them,
which comes to the same. They cut times to whole nanoseconds and add an endpoint once; the worst case
here is 0.04 % off.
"""

from __future__ import annotations

import pytest
from plans import Fields, job_of, run_collectives, small_experiment

from sim.programs.ranks import Job

PAYLOAD = 2.0**30
LINK = 50 * 2.0**30  # "50 GB/s"
HOP = 500e-9
ENDPOINT = 10e-9
MEMORY = 1600e9
WITHIN = 1e-3
REDUCING = {"all_reduce": 0.5, "reduce_scatter": 1.0, "all_gather": 0.0}  # share of the steps that reduce


def per_step(kind: str, n: int, size: float, memory: float = MEMORY) -> float:
    """What a ring step of ASTRA-sim pays beside the network: endpoint and, averaged, reduction."""
    return ENDPOINT + REDUCING[kind] * 3 * (size / n) / memory


def ring_job(fabric: Fields, n: int, extra: float, latency: float = 0.0) -> Job:
    """`n` servers of one accelerator each in one data-parallel group that only knows rings."""
    node = {
        "accelerators": 1,
        "local": {"kind": "none", "bandwidth": 0.0},
        "nics": {"count": 1, "bandwidth": LINK, "latency": latency},
        "collectives": {"ring_hop_network": extra, "tree_efficiency": 1e-3},
    }
    return job_of(small_experiment(nodes=n, node=node, fabric=fabric, training={"global_batch": n}))


def simulated(kind: str, n: int, splits: int, topology: str = "Ring") -> float:
    """Seconds of the collective in `splits` chunks, one after another."""
    chunk = PAYLOAD / splits
    extra = per_step(kind, n, chunk)
    ring: Fields = {"kind": "torus", "shape": [n], "link": {"bandwidth": LINK, "latency": HOP}}
    job = ring_job(ring, n, extra) if topology == "Ring" else ring_job({"kind": "switch"}, n, extra, HOP)
    return run_collectives(job, [("gradient", kind, chunk)] * splits)


@pytest.mark.parametrize(
    ("n", "kind", "topology", "nanoseconds"),
    [
        (8, "all_gather", "Ring", 17_514_320),
        (8, "all_gather", "Switch", 17_528_320),
        (8, "all_reduce", "Ring", 36_790_164),
        (8, "all_reduce", "Switch", 36_818_164),
        (8, "reduce_scatter", "Ring", 19_275_884),
        (8, "reduce_scatter", "Switch", 19_289_884),
        (64, "all_gather", "Ring", 19_816_060),
        (64, "all_gather", "Switch", 19_942_060),
        (64, "all_reduce", "Ring", 41_613_556),
        (64, "all_reduce", "Switch", 41_865_556),
        (64, "reduce_scatter", "Ring", 21_797_536),
        (64, "reduce_scatter", "Switch", 21_923_536),
        (256, "all_gather", "Ring", 20_441_860),
        (256, "all_gather", "Switch", 20_951_860),
        (256, "all_reduce", "Ring", 42_887_980),
        (256, "all_reduce", "Switch", 43_907_980),
        (256, "reduce_scatter", "Ring", 22_446_160),
        (256, "reduce_scatter", "Switch", 22_956_160),
        (1024, "all_reduce", "Ring", 46_129_156),
        (1024, "all_reduce", "Switch", 50_221_156),
    ],
)
def test_one_dimension_in_four_chunks(n: int, kind: str, topology: str, nanoseconds: int) -> None:
    assert simulated(kind, n, 4, topology) == pytest.approx(nanoseconds * 1e-9, rel=WITHIN)


@pytest.mark.parametrize(
    ("n", "splits", "nanoseconds"),
    [
        (64, 1, 41_420_935),
        (64, 16, 42_383_536),
        (64, 64, 45_453_376),
        (1024, 1, 43_014_091),
        (2048, 1, 44_073_967),
        (4096, 1, 46_162_945),
    ],
)
def test_an_all_reduce_on_a_ring_in_other_chunks(n: int, splits: int, nanoseconds: int) -> None:
    assert simulated("all_reduce", n, splits) == pytest.approx(nanoseconds * 1e-9, rel=WITHIN)


def test_the_bound_of_bandwidth_holds() -> None:
    """All chunks at once cannot be quicker than 2 (n-1)/n S / B: 39,375,000 ns on 64 accelerators."""
    assert pytest.approx(39_375_000e-9, rel=1e-12) == 2 * 63 / 64 * PAYLOAD / LINK
    assert simulated("all_reduce", 64, 1) > 39_375_000e-9


class TestTwoDimensions:
    """Servers of 8 on a switch, one switch between the servers: 400 and 50 GB/s, 936.25 and 1000 ns a hop.

    In one chunk its phases follow one another, so they are three collectives here: reduce-scatter in the
    server, all-reduce of an eighth over each rail, all-gather in the server.
    """

    LOCAL, WIDE = 400 * 2.0**30, 50 * 2.0**30
    SWITCH, SPINE = 2 * 936.25e-9, 2 * 1000e-9  # two hops

    @pytest.mark.parametrize(("n", "nanoseconds"), [(64, 10_786_309), (4096, 13_456_487)])
    def test_an_all_reduce_in_one_chunk(self, n: int, nanoseconds: int) -> None:
        wide = per_step("all_reduce", n // 8, PAYLOAD / 8)
        inside = self.SWITCH + (per_step("reduce_scatter", 8, PAYLOAD) + per_step("all_gather", 8, PAYLOAD)) / 2
        node = {
            "local": {"bandwidth": self.LOCAL, "latency": 0.0},
            "nics": {"count": 8, "bandwidth": self.WIDE, "latency": self.SPINE / 2},
            "collectives": {"ring_hop": inside, "ring_hop_network": wide, "tree_efficiency": 1e-3},
        }
        job = job_of(small_experiment(
            nodes=n // 8, node=node, parallelism={"tensor": 8}, training={"global_batch": n // 8}
        ))  # fmt: skip
        steps = [
            ("tensor", "reduce_scatter", PAYLOAD),
            ("gradient", "all_reduce", PAYLOAD / 8),
            ("tensor", "all_gather", PAYLOAD),
        ]
        assert run_collectives(job, steps) == pytest.approx(nanoseconds * 1e-9, rel=WITHIN)


def test_a_large_ring_is_folded_to_one_accelerator() -> None:
    """What takes ASTRA-sim 2 (n-1) n messages is one flow here: work does not grow with the ring."""
    job = ring_job({"kind": "torus", "shape": [4096], "link": {"bandwidth": LINK, "latency": HOP}}, 4096, ENDPOINT)
    assert (len(job.ranks), job.table.n_flows, len(job.table.capacity)) == (1, 1, 1)
