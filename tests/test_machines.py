"""Every machine of the catalogue runs a step that fits; kinds of devices and tori keep what they promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cluster_cases import ACCELERATOR
from hypothesis import given
from hypothesis import strategies as st

from sim.ask.run.simulate import simulate
from sim.ask.run.stacks import could_run
from sim.cluster.build import build_cluster
from sim.cluster.cluster import Cluster
from sim.comm.direct import Direct
from sim.comm.exchange import Exchange
from sim.comm.pattern import Group, Members, Pattern
from sim.comm.ring import Ring
from sim.comm.torus_rings import TorusRings
from sim.devices.catalogue import DEVICES
from sim.devices.compute import operation_time, operation_times
from sim.devices.curve import edge, share_of_size
from sim.errors import ConfigError
from sim.graph.operation import Operation
from sim.inputs.board import streaming_rate
from sim.inputs.catalogue import list_catalogue
from sim.inputs.load import load_definition, load_experiment
from sim.inputs.records import Accelerator, ClusterSpec, Node, Rates, Software
from sim.metrics.result import Result
from sim.record import NARROW, narrow_bytes
from sim.units import SI

SMALL = "{kind: transformer, name: small, layers: 2, hidden: 256, heads: 4, ffn: 1024, vocab: 1024}"
PRECISIONS = ("bf16", "fp16", "fp32", "int8")  # the first that a chip has
SERVER = "{name: one, accelerators: 1, local: {kind: none}, nics: {count: 0}}"


def chip(name: str, *overrides: str) -> Accelerator:
    record = load_definition("accelerator", name, overrides)
    assert isinstance(record, Accelerator)
    return record


def run(cluster: str, board: Accelerator, ranks: int, *overrides: str) -> Result:
    precision = next(name for name in PRECISIONS if getattr(board.matrix.peak, name))
    changes = [
        f"cluster={cluster}", f"workload={SMALL}", "software=pytorch-16bit-compile",
        "parallelism.tensor=1", "parallelism.sequence_parallel=false",
        f"training={{global_batch: {ranks}, sequence_length: 256, precision: {precision}}}", *overrides,
    ]  # fmt: skip
    return simulate(load_experiment("quickstart", changes).experiment)


@pytest.mark.parametrize("name", list_catalogue("cluster"))
def test_every_cluster_runs_a_step_that_fits(name: str) -> None:
    spec = load_definition("cluster", name)
    assert isinstance(spec, ClusterSpec)
    assert isinstance(spec.node, Node)
    assert isinstance(spec.node.accelerator, Accelerator)
    nodes = spec.nodes if spec.fabric and spec.fabric.kind in ("torus", "graph") else min(2, spec.nodes)
    result = run(name, spec.node.accelerator, nodes * spec.node.accelerators, f"nodes={nodes}")
    assert result.memory.fits
    assert result.step.time_s > 0
    assert result.energy
    assert result.energy.step_kwh > 0


@pytest.mark.parametrize(
    ("cluster", "stacks"),
    [
        ("dgx-h100", set()),
        ("tpu-v5p-4x4x4", {"maxtext-tpu"}),
        ("mi300x", {"rocm-megatron"}),
        ("gaudi2", {"habana"}),
        ("xeon-8480plus-2s", {"ipex", "pytorch-cpu"}),
    ],
)
def test_only_stacks_of_the_maker_stand_beside_a_run(cluster: str, stacks: set[str]) -> None:
    nodes = "cluster.nodes=1"
    setup = load_experiment("quickstart", [f"cluster={cluster}", nodes, "parallelism.tensor=1"]).experiment.setup
    named = {"maxtext-tpu", "neuron", "habana", "rocm-megatron", "ipex", "pytorch-cpu"}
    able = {name for name in list_catalogue("software") if could_run(stack(name), setup)}
    assert able & named == stacks
    assert bool(able - named) is (setup.accelerator.kind == "gpu")


def stack(name: str) -> Software:
    record = load_definition("software", name)
    assert isinstance(record, Software)
    return record


def test_devices_of_one_package_are_told_apart() -> None:
    told = "a package of mi250x holds 2 devices: accelerators, degrees of parallelism, power and prices are of a device"
    assert told in run("mi250x", chip("mi250x"), 8).notes
    assert not any("a package of" in note for note in run("mi300x", chip("mi300x"), 8).notes)


@pytest.mark.parametrize("name", list_catalogue("accelerator"))
def test_every_accelerator_runs_a_step_that_fits(name: str) -> None:
    node = SERVER.replace("{name: one", f"{{name: one, accelerator: {name}")
    result = run(f"{{name: one, nodes: 1, node: {node}}}", chip(name), 1)
    assert result.memory.fits
    assert 0 < result.step.time_s < 1


def test_every_other_server_runs_a_step_that_fits() -> None:
    """Those of clusters and instances run in tests of their own."""
    names = [name for kind in ("cluster", "instance") for name in list_catalogue(kind)]
    specs = [load_definition("cluster", name) for name in names]
    joined = {spec.node.name for spec in specs if isinstance(spec, ClusterSpec) and isinstance(spec.node, Node)}
    for name in sorted(set(list_catalogue("node")) - joined):
        node = load_definition("node", name)
        assert isinstance(node, Node)
        assert isinstance(node.accelerator, Accelerator)
        result = run(f"{{name: one, nodes: 1, node: {name}}}", node.accelerator, node.accelerators)
        assert result.memory.fits, name
        assert result.step.time_s > 0, name


def test_each_kind_of_the_format_has_a_device() -> None:
    kinds = Accelerator.model_json_schema()["properties"]["kind"]["enum"]
    assert set(DEVICES) == set(kinds)
    assert {chip(name).kind for name in list_catalogue("accelerator")} == set(kinds)


def product(m: int, n: int, k: int, precision: str = "bf16") -> Operation:
    width = narrow_bytes(precision) if precision in NARROW else 2
    moved = width * (m * k + k * n) + 2.0 * m * n
    return Operation("product", "matmul", 2.0 * m * n * k, moved, precision, 1, m, n, k)


class TestDevices:
    @pytest.mark.parametrize(
        ("size", "measured"),
        [(512, 105.1), (1024, 349.7), (2048, 679.3), (4096, 892.9), (16384, 950.1), (32768, 956.4)],
    )
    def test_a_systolic_array_has_the_rates_of_its_table(self, size: int, measured: float) -> None:
        """AI-Hypercomputer/tpu-recipes, microbenchmarks/ironwood, one core; 1.6 us are dispatch, once a step."""
        seconds = operation_time(product(size, size, size), chip("tpu-7x")) + 1.6e-6
        assert 2 * size**3 / seconds / 1e12 == pytest.approx(measured, rel=0.03)

    def test_a_compiled_program_has_no_launches(self) -> None:
        for name, pays in (("tpu-v5p", False), ("gaudi2", False), ("h100-sxm", True), ("xeon-8480plus", True)):
            assert (operation_times(product(512, 512, 512), chip(name)).launches > 0) is pays, name

    def test_sizes_are_padded_to_the_arrays(self) -> None:
        board = chip("tpu-v5e", "matrix.curve=[]")  # arrays of 128 x 128
        whole, odd = (operation_times(product(8192, n, 8192), board).arithmetic for n in (4096, 4097))
        assert odd == pytest.approx(whole * (4096 + 128) / 4096)

    def test_an_engine_takes_the_shape_that_fits(self) -> None:
        board = chip("gaudi2")
        fixed = board.model_copy(update={"matrix": board.matrix.model_copy(update={"halves_tiles": False})})
        narrow = product(8192, 128, 4096)
        one, other = (operation_times(narrow, each).arithmetic for each in (board, fixed))
        assert other == pytest.approx(2 * one)  # 512 x 128 for 256 x 256

    def test_pages_over_two_sockets_cross_the_link_between_them(self) -> None:
        own = chip("xeon-8480plus")
        both = chip("xeon-8480plus", "memory.domains=2", "memory.domain_link=50 GB/s")
        assert streaming_rate(own) == pytest.approx(0.8 * 307e9)
        assert streaming_rate(both) == pytest.approx(100e9)  # half of the traffic at 50 GB/s

    def test_cores_without_a_tile_idle(self) -> None:
        board = chip("xeon-8480plus", "matrix.curve=[]")
        full = operation_times(product(56 * 32, 32, 4096), board).arithmetic
        less = operation_times(product(57 * 32, 32, 4096), board).arithmetic
        assert less == pytest.approx(2 * full)

    def test_an_fpga_that_holds_less_reads_more(self) -> None:
        """Hong and Kung: traffic beyond the chip goes with one over the root of what the chip holds."""
        big, small = (chip("alveo-u55c", f"array.on_chip={size}") for size in ("16 MiB", "1 MiB"))
        times = [operation_times(product(16384, 16384, 16384, "int8"), each).memory for each in (small, big)]
        assert times[0] == pytest.approx(4 * times[1])

    def test_an_array_reaches_no_more_than_its_multipliers(self) -> None:
        faster = "{extends: alveo-u55c, matrix: {peak: {int8: 20 TFLOP/s}}}"
        with pytest.raises(ConfigError, match=r"matrix.peak.int8: 20 TFLOP/s in int8, more than the 9.8304"):
            run(f"{{extends: pcie-4x-u55c, node: {{accelerator: {faster}}}}}", chip("alveo-u55c"), 4)

    def test_a_rate_over_size_goes_upwards(self) -> None:
        wafer = "{extends: wse-3, matrix: {curve: [[4096, 0.9], [256, 0.5]]}}"
        with pytest.raises(ConfigError, match=r"matrix.curve: the edges 4096, 256 do not rise"):
            run(f"{{extends: cs-3, node: {{accelerator: {wafer}}}}}", chip("wse-3"), 2)

    def test_a_rate_over_size_is_one_of_equal_work(self) -> None:
        assert edge(4096, 4096, 4096) == pytest.approx(4096)
        assert edge(8192, 2048, 4096) == pytest.approx(4096)
        curve = ((1000, 0.5), (4000, 1.0))
        shares = [share_of_size(curve, product(n, n, n)) for n in (500, 1000, 2000, 4000, 8000)]
        assert shares == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


class TestFormats:
    def test_blocks_carry_their_scales(self) -> None:
        """OCP Microscaling Formats 1.0: 8 bit for 32 elements; NVFP4 for 16."""
        widths = {"int8": 1, "fp8": 1, "mxfp8": 1 + 1 / 32, "fp6": 0.75 + 1 / 32, "fp4": 0.5 + 1 / 32, "nvfp4": 0.5625}
        assert {name: narrow_bytes(name) for name in NARROW} == pytest.approx(widths)

    def test_each_format_runs_where_the_chip_has_it(self) -> None:
        def seconds(precision: str) -> float:
            changes = [f"training.precision={precision}", "training.global_batch=8", "software=nemo"]
            changes += ["workload=gpt3-175b", "training.sequence_length=2048"]
            return simulate(load_experiment("quickstart", ["cluster=dgx-b200", *changes]).experiment).step.time_s

        bf16, fp8, mxfp8, fp4, nvfp4 = map(seconds, ("bf16", "fp8", "mxfp8", "fp4", "nvfp4"))
        assert fp4 < nvfp4 < fp8 < mxfp8 < bf16  # a scale of the tensor takes a pass, scales of blocks are bytes
        with pytest.raises(ConfigError, match="h100-sxm has no matrix rate for mxfp8"):
            load_experiment("quickstart", ["training.precision=mxfp8"])

    def test_every_rate_has_an_energy_beside_it(self) -> None:
        energies = type(chip("b200").power.matrix).model_fields
        assert set(Rates.model_fields) == set(energies)


def torus(shape: tuple[int, ...], nodes: int = 1, **changes: Any) -> Cluster:
    """A node of chips with links of 50 GB/s to their neighbours."""
    size, local = int(np.prod(shape)), {"kind": "torus", "bandwidth": 100e9 * len(shape), "latency": 1e-6}
    node = {"name": "n", "accelerator": ACCELERATOR, "accelerators": size, "local": local | {"shape": shape} | changes,
            "nics": {"count": 1, "bandwidth": 25e9}}  # fmt: skip
    record = {"name": "c", "nodes": nodes, "node": node, "fabric": {"kind": "switch"}}
    return build_cluster(ClusterSpec.model_validate(record, context=SI))


def rate(cluster: Cluster, row: list[int], pattern: Pattern) -> float:
    """Bytes per second of the flow of one group alone, in units of a link."""
    loads = pattern.loads(cluster, Members(np.array([row]), np.array([0])), pattern.carriers[0])
    return float((cluster.links.capacity[loads.link] / loads.coefficient).min()) / 50e9


def server(name: str) -> tuple[Node, Cluster]:
    node = load_definition("node", name)
    assert isinstance(node, Node)
    return node, build_cluster(ClusterSpec.from_si({"name": "one", "nodes": 1, "node": node}))


class TestMesh:
    """Servers whose boards have links to each other and none to a switch."""

    def test_direct_sends_use_all_links_and_rings_six_of_seven(self) -> None:
        node, cluster = server("gaudi2")
        link = node.local.bandwidth * node.local.efficiency / 7 / 50e9
        assert rate(cluster, list(range(8)), Direct()) == pytest.approx(7 * link)
        assert rate(cluster, list(range(8)), Ring()) == pytest.approx(6 * link)

    @pytest.mark.parametrize(("collective", "rounds"), [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)])
    def test_bytes_leave_once_a_round_in_one_step_each(self, collective: str, rounds: int) -> None:
        node, _ = server("gaudi2")
        (leg,) = Direct().cost(collective, 8e9, Group(8, 1, 0.0), node)
        assert leg.size == pytest.approx(rounds * 7e9)
        assert leg.latency == pytest.approx(rounds * node.collectives.ring_hop)

    def test_only_meshes_inside_a_server_have_it(self) -> None:
        mesh, _ = server("gaudi2")
        switch, _ = server("dgx-h100")
        inside, across = Group(8, 1, 0.0), Group(16, 2, 0.0)
        assert Direct().serves("all_reduce", inside, mesh)
        assert not Direct().serves("all_reduce", inside, switch)
        assert not Direct().serves("all_reduce", across, mesh)
        assert not Direct().serves("all_to_all", inside, mesh)


LINE = (False, False)


class TestTorus:
    @pytest.mark.parametrize(
        ("shape", "changes", "links"),
        [((4, 4), {}, 4), ((4, 4), {"wrap": LINE}, 2), ((8, 16), {"wrap": (False, True)}, 3), ((4, 4, 4), {}, 6),
         ((4, 4, 8), {"twisted": True}, 6), ((8,), {}, 2), ((2, 2), {"wrap": LINE}, 2)],
    )  # fmt: skip
    def test_all_links_of_a_slice_are_used(self, shape: tuple[int, ...], changes: dict[str, Any], links: int) -> None:
        cluster = torus(shape, **changes)
        assert rate(cluster, list(range(cluster.n_accelerators)), TorusRings()) == pytest.approx(links)

    def test_groups_along_one_dimension_have_its_links(self) -> None:
        cluster = torus((4, 4, 4))
        assert rate(cluster, [0, 1, 2, 3], TorusRings()) == pytest.approx(2)
        assert rate(cluster, [0, 1], TorusRings()) == pytest.approx(1)
        assert rate(cluster, [*range(16)], TorusRings()) == pytest.approx(4)

    def test_what_is_no_box_goes_round_in_a_ring(self) -> None:
        cluster = torus((4, 4))
        assert rate(cluster, [0, 1, 4], TorusRings()) <= 1

    def test_twisting_helps_an_exchange(self) -> None:
        """Jouppi and others, ISCA 2023: about 1.6 times on n x n x 2n; routes here are the first of equal length."""
        plain, twisted = (
            rate(made, list(range(128)), Exchange()) for made in (torus((4, 4, 8)), torus((4, 4, 8), twisted=True))
        )
        assert 1.4 < twisted / plain < 1.8

    def test_an_exchange_is_bound_by_the_bisection(self) -> None:
        """Each of n places on a ring of k sends over k/4 links on average, so a link carries k/8 of what one sends."""
        assert rate(torus((8, 8)), list(range(64)), Exchange()) == pytest.approx(8 / 8 * 63 / 64, rel=0.02)

    @given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
    def test_no_group_gets_more_than_its_links(self, shape: list[int], data: st.DataObject) -> None:
        cluster = torus(tuple(shape))
        if cluster.n_accelerators > 1:
            row = data.draw(st.sets(st.integers(0, cluster.n_accelerators - 1), min_size=2))
            ports = min(np.bincount(cluster.links.source, minlength=cluster.n_vertices)[list(row)])
            assert rate(cluster, sorted(row), TorusRings()) <= 2 * ports + 1e-9  # two cables of a pair are one link

    def test_a_step_is_the_same_without_shortcuts(self) -> None:
        off = [f"simulation.{name}=off" for name in ("fold", "coalesce", "skip", "prune", "reuse")]
        plans = ["parallelism.tensor=4", "parallelism.sequence_parallel=true", "parallelism.zero_stage=3"]
        results = [run("tpu-v6e-2x4", chip("tpu-v6e"), 8, *plans, *changes).step.time_s for changes in ([], off)]
        assert results[0] == pytest.approx(results[1], rel=1e-9)

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [("accelerators: 9", "a torus of 2 x 4 holds 8 accelerators, not 9"),
         ("local: {wrap: [true]}", "1 values for 2 dimensions"),
         ("local: {twisted: true, wrap: [true, true]}", "a torus of 2 x 4 cannot be twisted")],
    )  # fmt: skip
    def test_shapes_that_do_not_fit_are_refused(self, changes: str, problem: str) -> None:
        with pytest.raises(ConfigError, match=problem):
            run(f"{{extends: tpu-v6e-2x4, node: {{{changes}}}}}", chip("tpu-v6e"), 8)


def test_two_slices_meet_over_their_hosts_alone() -> None:
    """Sharded inside a slice, replicated between two: the hosts carry the gradients, and the torus nothing of them."""
    plans = ["parallelism.zero_stage=3", "parallelism.shard_group=8"]
    one, two = (run("tpu-v6e-2x4", chip("tpu-v6e"), 8 * n, *plans, f"nodes={n}", f"cluster.nodes={n}") for n in (1, 2))
    hosts = [link for link in two.utilization.links if "nic" in link.name]
    assert hosts
    assert not any("nic" in link.name for link in one.utilization.links)
    inside = [
        sum(link.bytes * link.count for link in each.utilization.links if "nic" not in link.name) for each in (one, two)
    ]
    assert inside[1] == pytest.approx(2 * inside[0], rel=1e-6)
