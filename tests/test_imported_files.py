"""Files of Slurm, GraphML, NCCL and nvidia-smi as input: what they say comes back, what is wrong with them is told."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from random import Random

import numpy as np
import pytest

from sim.cluster.build import build_cluster
from sim.cluster.cluster import Cluster
from sim.cluster.server import CUBE_MESH_LINKS
from sim.errors import ConfigError
from sim.imports.foreign import ImportedFile
from sim.imports.graphml import GraphmlOptions, import_graphml
from sim.imports.hostlist import HostlistError, expand_hostlist
from sim.imports.infragraph import import_infragraph
from sim.imports.nccl_topology import import_nccl_topology
from sim.imports.slurm import import_slurm
from sim.imports.topology_matrix import import_topology_matrix
from sim.inputs.load import load_definition
from sim.inputs.records import ClusterSpec, FatTreeFabric, GraphFabric, Node
from support import ROOT, Cli

SAMPLES = ROOT / "tests" / "data" / "imports"
ZOO = GraphmlOptions("host*", "LinkSpeedRaw", "b/s", "80 Gb/s")
GB = 1e9


def saved(folder: Path, text: str, name: str = "given.conf") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def cluster(folder: Path, imported: ImportedFile) -> Cluster:
    spec = load_definition("cluster", str(saved(folder, imported.text, "made.yaml")))
    assert isinstance(spec, ClusterSpec)
    return build_cluster(spec)


def server(folder: Path, imported: ImportedFile) -> Node:
    node = load_definition("node", str(saved(folder, imported.text, "made.yaml")))
    assert isinstance(node, Node)
    return node


def problems(error: pytest.ExceptionInfo[ConfigError]) -> list[str]:
    return [str(problem).split("given", 1)[-1].partition(":")[2] for problem in error.value.problems]


class TestHostlist:
    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("n1", "n1"),
            ("tux[0-3,12,18-20]", "tux0 tux1 tux2 tux3 tux12 tux18 tux19 tux20"),
            ("node[008-011],login", "node008 node009 node010 node011 login"),
            ("r[1-2]n[1-2]-ib", "r1n1-ib r1n2-ib r2n1-ib r2n2-ib"),
        ],
    )
    def test_names_come_in_their_order_with_their_zeros(self, text: str, names: str) -> None:
        assert expand_hostlist(text) == names.split()

    @pytest.mark.parametrize(
        "text",
        ["n[1-2", "n]1[", "n[[1]]", "n[4-2]", "n[a-b]", "n[]", "a,,b", "n[0-99999999]", "a,", f"n[{'9' * 5000}]"],
    )
    def test_what_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(HostlistError):
            expand_hostlist(text)

    def test_many_lists_together_are_limited_too(self) -> None:
        with pytest.raises(HostlistError, match="200,000"):
            expand_hostlist("a[0-999]b[0-999]")


class TestSlurm:
    def test_equal_leaves_under_the_same_spines_are_a_fat_tree(self, tmp_path: Path) -> None:
        made = cluster(tmp_path, import_slurm(SAMPLES / "tree.conf", "dgx-h100"))
        fabric = made.spec.fabric
        assert isinstance(fabric, FatTreeFabric)
        assert (made.n_nodes, fabric.nodes_per_unit, fabric.spines) == (8, 4, 2)

    def test_a_link_speed_with_a_unit_is_the_rate_of_adapters(self, tmp_path: Path) -> None:
        text = (SAMPLES / "tree.conf").read_text().replace("400Gb/s", "200Gb/s")
        made = cluster(tmp_path, import_slurm(saved(tmp_path, text), "dgx-h100"))
        assert made.node.nics.bandwidth == 25 * GB

    def test_an_irregular_tree_is_a_graph_with_its_names_and_trunks(self, tmp_path: Path) -> None:
        made = cluster(tmp_path, import_slurm(SAMPLES / "uneven.conf", "dgx-a100"))
        assert isinstance(made.spec.fabric, GraphFabric)
        trunks = {(link.source, link.target): link.bandwidth for link in made.spec.fabric.links}
        node = 8 * 25 * GB
        assert trunks["a1", "leaf1"] == node
        assert trunks["leaf1", "agg1"] == 4 * node  # as much up as down
        assert trunks["leaf3", "core"] == trunks["agg1", "core"] == 200 * GB  # as LinkSpeed says
        assert [vertex.id for vertex in made.spec.fabric.nodes][:8] == ["a1", "a2", "a3", "a4", "a5", "a6", "b1", "c1"]

    def test_oversubscription_is_that_of_every_switch(self, tmp_path: Path) -> None:
        half = cluster(tmp_path, import_slurm(SAMPLES / "uneven.conf", "dgx-a100", oversubscription=2))
        assert isinstance(half.spec.fabric, GraphFabric)
        trunks = {(link.source, link.target): link.bandwidth for link in half.spec.fabric.links}
        assert trunks["leaf1", "agg1"] == 4 * 8 * 25 * GB / 2

    def test_a_fat_tree_and_its_graph_have_the_same_bisection(self, tmp_path: Path) -> None:
        """A trunk whose rate is said makes a graph of it; as the fat tree has it, nothing else may differ."""
        tree = cluster(tmp_path, import_slurm(SAMPLES / "tree.conf", "dgx-h100"))
        text = (
            (SAMPLES / "tree.conf").read_text().replace("Switches=leaf[1-2]", "Switches=leaf[1-2] LinkSpeed=6400Gb/s")
        )
        graph = cluster(tmp_path, import_slurm(saved(tmp_path, text), "dgx-h100"))
        assert isinstance(graph.spec.fabric, GraphFabric)
        assert tree.fabric is not None
        assert graph.fabric is not None
        np.testing.assert_allclose(graph.fabric.bisection(), tree.fabric.bisection())

    def test_blocks_are_leaves_under_a_spine_that_is_assumed(self, tmp_path: Path) -> None:
        imported = import_slurm(SAMPLES / "blocks.conf", "dgx-h100")
        fabric = cluster(tmp_path, imported).spec.fabric
        assert isinstance(fabric, FatTreeFabric)
        assert fabric.nodes_per_unit == 18
        assert any("assumption" in remark for remark in imported.remarks)
        assert any("BlockSizes=18,36" in remark for remark in imported.remarks)

    def test_one_switch_is_one_switch(self, tmp_path: Path) -> None:
        made = cluster(tmp_path, import_slurm(saved(tmp_path, "SwitchName=s Nodes=n[1-3]\n"), "dgx-h100"))
        assert made.spec.fabric is not None
        assert made.spec.fabric.kind == "switch"

    def test_a_bare_link_speed_is_said_to_count_for_nothing(self) -> None:
        assert any(
            "LinkSpeed=100 has no unit" in remark
            for remark in import_slurm(SAMPLES / "uneven.conf", "dgx-a100").remarks
        )

    def test_a_line_goes_on_after_a_backslash(self, tmp_path: Path) -> None:
        made = import_slurm(saved(tmp_path, "SwitchName=s Nodes=n1,\\\nn2 # and more\n"), "dgx-h100")
        assert "nodes: 2" in made.text

    def test_every_mistake_is_told_with_its_line(self) -> None:
        with pytest.raises(ConfigError) as error:
            import_slurm(SAMPLES / "wrong.conf", "dgx-h100")
        told = [str(problem).split("wrong.conf:")[1] for problem in error.value.problems]
        assert [line.split(":")[0] for line in told] == ["1", "2", "3", "4", "5", "5", "6", "7", "8"]
        assert "did you mean LinkSpeed?" in told[0]

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (
                "SwitchName=a Switches=b\nSwitchName=b Switches=a,c\nSwitchName=c Nodes=n1\n",
                "1:1: a: is over itself: a, b",
            ),
            ("SwitchName=a Nodes=n1\nSwitchName=b Nodes=n2\n", "2:1: b: does not hang together with a"),
            ("SwitchName=a Nodes=n1,n1\n", "1:1: a: n1 is under a (line 1) too"),
            ("SwitchName=a Nodes=a\n", "1:1: a: a is a switch (line 1) and a node"),
            ("SwitchName=a Switches=b\nSwitchName=b Switches=c\nSwitchName=c Nodes=\n", "3:14: Nodes: has no value"),
            ("BlockName=a Nodes=n1 Switches=b\n", "1:22: Switches: blocks hold nodes"),
            ("BlockSizes=4\n", "1:1: lists no switches and no blocks"),
            ("Nodename=x\n", "1:1: Nodename: is not read"),
        ],
    )
    def test_trees_that_are_none(self, tmp_path: Path, text: str, told: str) -> None:
        with pytest.raises(ConfigError) as error:
            import_slurm(saved(tmp_path, text), "dgx-h100")
        assert any(line.startswith(told) for line in problems(error)), problems(error)

    def test_a_thousand_uneven_nodes_are_checked(self, tmp_path: Path, cli: Cli) -> None:
        lines = [f"SwitchName=s{i} Nodes=n[{i * 100}-{i * 100 + 90 + i % 2}]" for i in range(11)]
        made = import_slurm(saved(tmp_path, "\n".join([*lines, "SwitchName=top Switches=s[0-10]"])), "dgx-h100")
        assert cli("check", saved(tmp_path, made.text, "made.yaml")).code == 0


class TestGraphml:
    def test_rates_servers_and_parallel_cables(self, tmp_path: Path) -> None:
        made = cluster(tmp_path, import_graphml(SAMPLES / "sites.graphml", "dgx-h100", ZOO))
        assert isinstance(made.spec.fabric, GraphFabric)
        assert [(v.id, v.kind) for v in made.spec.fabric.nodes if v.kind == "node"] == [
            (f"host-{i}", "node") for i in (1, 2, 3)
        ]
        assert [link.bandwidth for link in made.spec.fabric.links] == [10 * GB] * 3 + [12.5 * GB, 5 * GB]

    @pytest.mark.parametrize(("which", "n"), [("all", 5), ("leaves", 3), ("label=West", 2), ("host ?", 3)])
    def test_servers_are_chosen_by_a_rule(self, which: str, n: int) -> None:
        options = GraphmlOptions(which, "LinkSpeedRaw", "b/s", "80 Gb/s")
        assert f"nodes: {n}\n" in import_graphml(SAMPLES / "sites.graphml", "dgx-h100", options).text

    def test_what_is_missing_is_told_for_every_edge(self) -> None:
        with pytest.raises(ConfigError) as error:
            import_graphml(SAMPLES / "sites.graphml", "dgx-h100", GraphmlOptions("", "LinkSpeedRaw"))
        told = [str(problem).split(".graphml:")[1] for problem in error.value.problems]
        assert told[0].startswith("1:1: no vertex has kind=node; --nodes all (5), leaves (3)")
        assert [line.split(":")[0] for line in told[1:]] == ["11", "12", "13", "14", "15"]
        assert all("without a unit" in line for line in told[4:])

    def test_a_key_that_no_edge_has_is_told_once(self) -> None:
        with pytest.raises(ConfigError) as error:
            import_graphml(SAMPLES / "sites.graphml", "dgx-h100", GraphmlOptions("all"))
        assert ["LinkSpeedRaw" in str(problem) for problem in error.value.problems] == [True]

    def test_a_cable_drawn_there_and_back_is_one(self, tmp_path: Path) -> None:
        edge = '<edge source="{}" target="{}"><data key="r">{} Gb/s</data></edge>'
        edges = edge.format("a", "b", 8) + edge.format("b", "a", 4)
        text = (
            '<graphml><key id="r" for="edge" attr.name="bandwidth"/><graph edgedefault="directed">'
            f'<node id="a"/><node id="b"/>{edges}</graph></graphml>'
        )
        imported = import_graphml(saved(tmp_path, text), "dgx-h100", GraphmlOptions("all"))
        assert imported.text.count("source: a") == 1
        assert "bandwidth: 4 Gb/s" in imported.text
        assert any("the lower one" in remark for remark in imported.remarks)

    def test_a_file_that_a_fabric_may_name_gives_the_same_links(self, tmp_path: Path) -> None:
        """Vertices with kind, edges with bandwidth and latency: what `fabric.graphml` takes gives the same links."""
        key = '<key id="{0}" for="{1}" attr.name="{0}" attr.type="{2}"/>'
        keys = [key.format(*words) for words in (("bandwidth", "edge", "string"), ("kind", "node", "string"))]
        node = '<node id="{}"><data key="kind">node</data></node>'
        data = '<data key="bandwidth">50 GB/s</data><data key="latency">2e-6</data>'
        edge = '<edge source="{}" target="s">' + data + "</edge>"
        inside = node.format("a") + node.format("b") + '<node id="s"/>' + edge.format("a") + edge.format("b")
        text = "".join(
            ("<graphml>", *keys, key.format("latency", "edge", "double"), "<graph>", inside, "</graph></graphml>")
        )
        path = saved(tmp_path, text, "net.graphml")
        inline = cluster(tmp_path, import_graphml(path, "dgx-h100", GraphmlOptions()))
        named = "name: x\nnodes: 2\nnode: dgx-h100\nfabric: {kind: graph, graphml: net.graphml}\n"
        spec = load_definition("cluster", str(saved(tmp_path, named, "named.yaml")))
        assert isinstance(spec, ClusterSpec)
        drawn = build_cluster(spec)
        np.testing.assert_allclose(inline.links.latency, drawn.links.latency)
        share = drawn.node.nics.efficiency  # the file gives none, so that its cables have the whole line rate
        fast = drawn.links.capacity == 50 * GB
        np.testing.assert_allclose(inline.links.capacity[fast], share * 50 * GB)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("<graphml><graph>", "1:17: is not XML: no element found"),
            ("<svg/>", "1:1: begins with svg, not graphml"),
            ("<graphml/>", "1:1: holds no graph"),
            ('<!DOCTYPE g [<!ENTITY a "b">]><graphml/>', "1:1: declares an entity"),
            ('<graphml><graph><node id="a"/><node id="a"/></graph></graphml>', "1:31: node a: is on line 1 too"),
            (
                '<graphml><graph><node id="a"/><edge source="a" target="b"/></graph></graphml>',
                "1:31: edge a - b: 'b' is no",
            ),
            ('<graphml><graph><node id="a"/><node id="b"/></graph></graphml>', "1:31: node b: does not hang together"),
            ("<graphml><graph><node/></graph></graphml>", "1:17: a node without an id"),
        ],
    )
    def test_graphs_that_are_none(self, tmp_path: Path, text: str, told: str) -> None:
        with pytest.raises(ConfigError) as error:
            import_graphml(saved(tmp_path, text), "dgx-h100", GraphmlOptions("all", rate="1 Gb/s"))
        assert any(line.startswith(told) for line in problems(error)), problems(error)


class TestServers:
    def test_nvlinks_to_switches(self, tmp_path: Path) -> None:
        imported = import_nccl_topology(SAMPLES / "nvswitch.xml", "dgx-h100")
        node = server(tmp_path, imported)
        reference = load_definition("node", "dgx-h100")
        assert isinstance(reference, Node)
        assert (node.accelerators, node.local) == (8, reference.local)
        assert (node.nics.count, node.nics.bandwidth) == (8, 50 * GB)
        assert any("18 NVLinks of 25 GB/s" in remark for remark in imported.remarks)
        assert any("left out, slower or far from boards: eth0" in remark for remark in imported.remarks)

    def test_a_rate_of_one_link_gives_that_of_a_board(self, tmp_path: Path) -> None:
        node = server(tmp_path, import_nccl_topology(SAMPLES / "nvswitch.xml", "dgx-h100", link_rate=20 * GB))
        assert node.local.bandwidth == pytest.approx(360 * GB)

    def test_a_tree_of_pcie(self, tmp_path: Path) -> None:
        node = server(tmp_path, import_nccl_topology(SAMPLES / "pcie.xml", "pcie-8x-a100"))
        assert node.pcie is not None
        assert (node.accelerators, node.pcie.switches, node.pcie.sockets, node.pcie.adapters) == (4, 2, 2, "switch")
        assert node.local.bandwidth == pytest.approx(0.79 * 16 * 16e9 / 8 * 128 / 130, rel=1e-4)
        assert (node.nics.count, node.nics.bandwidth) == (2, 25 * GB)

    def test_a_link_that_is_down_is_found(self, tmp_path: Path) -> None:
        text = (SAMPLES / "nvswitch.xml").read_text().replace('count="4"', 'count="3"', 1)
        with pytest.raises(ConfigError) as error:
            import_nccl_topology(saved(tmp_path, text), "dgx-h100")
        assert problems(error) == ["5:9: gpu: 0000:11:00.0 has 17 NVLinks to switches, others have 18; is a link down?"]

    def test_a_single_board_has_no_network_between_boards(self, tmp_path: Path) -> None:
        text = "\tGPU0\tCPU Affinity\nGPU0\t X \t0-19\n"
        for like in ("pcie-8x-a100", "dgx-h100"):
            assert server(tmp_path, import_topology_matrix(saved(tmp_path, text), like)).accelerators == 1

    def test_a_transfer_rate_that_is_none_counts_as_not_told(self, tmp_path: Path) -> None:
        text = (SAMPLES / "pcie.xml").read_text().replace("16.0 GT/s", "1.6.0 GT/s")
        imported = import_nccl_topology(saved(tmp_path, text), "pcie-8x-a100")
        assert any("does not tell the rate of PCIe" in remark for remark in imported.remarks)

    def test_several_hosts_are_refused(self, tmp_path: Path) -> None:
        text = (SAMPLES / "pcie.xml").read_text().replace("0x2", "0x3", 1)
        with pytest.raises(ConfigError, match="shows 2 hosts"):
            import_nccl_topology(saved(tmp_path, text), "pcie-8x-a100")

    def test_uneven_switches_are_refused_with_their_numbers(self, tmp_path: Path) -> None:
        text = (SAMPLES / "pcie.xml").read_text().replace('<gpu dev="0" sm="80" rank="0" gdr="1"/>', "")
        with pytest.raises(ConfigError, match="2 switches with 1, 2 boards"):
            import_nccl_topology(saved(tmp_path, text), "pcie-8x-a100")

    def test_the_matrix_of_a_switch_and_of_a_mesh_is_read_as_the_server_named(self, tmp_path: Path) -> None:
        imported = import_topology_matrix(SAMPLES / "nvlinks.txt", "dgx-a100")
        assert any("12 NVLinks of 25 GB/s" in remark for remark in imported.remarks)
        assert server(tmp_path, imported).nics.count == 4
        mesh = server(tmp_path, import_topology_matrix(SAMPLES / "nvlinks.txt", "mi300x", link_rate=1 * GB))
        assert (mesh.local.kind, mesh.local.bandwidth) == ("mesh", 7 * 12 * GB)

    def test_a_cube_is_found_in_any_numbering(self, tmp_path: Path) -> None:
        imported = import_topology_matrix(SAMPLES / "cube.txt", "dgx-1v", link_rate=25 * GB)
        node = server(tmp_path, imported)
        assert (node.local.kind, node.local.bandwidth) == ("hybrid_cube_mesh", 150 * GB)
        numbered = next(remark for remark in imported.remarks if "numbered as in the cube" in remark)
        order = [int(word.strip()[3:]) for word in numbered.split(":")[1].split(",")]
        cells = [line.split()[1:9] for line in (SAMPLES / "cube.txt").read_text().splitlines()[1:9]]
        found = {(i, j): cells[order[i]][order[j]] for i, j in permutations(range(8), 2) if i < j}
        assert {pair: int(word[2:]) for pair, word in found.items() if word != "SYS"} == CUBE_MESH_LINKS

    def test_bridges_between_pairs(self, tmp_path: Path) -> None:
        node = server(tmp_path, import_topology_matrix(SAMPLES / "bridges.txt", "pcie-8x-a100", link_rate=14 * GB))
        assert node.pcie is not None
        assert node.pcie.bridges is not None
        assert (node.pcie.bridges.bandwidth, node.pcie.bridges.boards) == (56 * GB, 2)
        assert (node.pcie.switches, node.pcie.sockets, node.nics.count) == (0, 2, 1)

    def test_bridges_of_no_known_rate_are_asked_for(self) -> None:
        with pytest.raises(ConfigError, match="--link-rate"):
            import_topology_matrix(SAMPLES / "bridges.txt", "pcie-8x-a100")

    def test_a_server_of_another_kind_is_refused_with_names_of_that_kind(self) -> None:
        with pytest.raises(ConfigError, match=r"shows a server of kind switch, pcie-8x-a100 is of kind pcie; .* dgx-2"):
            import_nccl_topology(SAMPLES / "nvswitch.xml", "pcie-8x-a100")

    @pytest.mark.parametrize(
        ("old", "new", "told"),
        [
            ("NV12\tNV12", "NV12\tNVX", "2:"),
            ("\nGPU7\t", "\nGPUX\t", "1:1: no row of GPU7"),
            ("GPU0\t X \tNV12", "GPU0\t X \tNV8", "3:1: GPU1: NV12 to GPU0, which says NV8"),
            ("NIC0\tPXB\tPXB\tSYS", "NIC0\tPXB\tPXB", "10:1: NIC0: 12 cells for 13 columns"),
        ],
    )
    def test_a_matrix_with_mistakes(self, tmp_path: Path, old: str, new: str, told: str) -> None:
        text = (SAMPLES / "nvlinks.txt").read_text()
        with pytest.raises(ConfigError) as error:
            import_topology_matrix(saved(tmp_path, text.replace(old, new, 1)), "dgx-a100")
        assert any(line.startswith(told) for line in problems(error)), problems(error)

    def test_no_matrix_is_no_matrix(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="shows no matrix"):
            import_topology_matrix(saved(tmp_path, "hello\n"), "dgx-a100")


COMMANDS = [
    ("slurm", "tree.conf", ()),
    ("slurm", "uneven.conf", ("--node", "dgx-a100")),
    ("slurm", "blocks.conf", ("--oversubscription", "2")),
    (
        "graphml",
        "sites.graphml",
        ("--nodes", "leaves", "--rate-key", "LinkSpeedRaw", "--rate-unit", "b/s", "--rate", "1 Tb/s"),
    ),
    ("nccl-topo", "nvswitch.xml", ("--node", "dgx-h100")),
    ("nccl-topo", "pcie.xml", ("--node", "pcie-8x-a100")),
    ("nvidia-smi-topo", "nvlinks.txt", ("--node", "dgx-a100")),
    ("nvidia-smi-topo", "cube.txt", ("--node", "dgx-1v")),
    ("nvidia-smi-topo", "bridges.txt", ("--node", "pcie-8x-a100", "--link-rate", "14 GB/s")),
]


@pytest.mark.parametrize(("verb", "sample", "options"), COMMANDS)
class TestCommand:
    def test_what_is_written_is_checked_and_fine(
        self, cli: Cli, tmp_path: Path, verb: str, sample: str, options: tuple[str, ...]
    ) -> None:
        target = tmp_path / "made.yaml"
        first = cli("import", verb, SAMPLES / sample, *options, "-o", target)
        assert (first.code, first.out) == (0, "")
        assert cli("check", target).err == ""
        assert cli("import", verb, SAMPLES / sample, *options, "-o", target).code == 3  # it exists already
        printed = cli("import", verb, SAMPLES / sample, *options)
        assert printed.out == target.read_text()
        assert all(
            remark in printed.err for remark in [line[4:] for line in printed.out.splitlines() if line[:4] == "# - "]
        )

    def test_a_damaged_file_ends_in_words(
        self, cli: Cli, tmp_path: Path, verb: str, sample: str, options: tuple[str, ...]
    ) -> None:
        draw, content = Random(sample), (SAMPLES / sample).read_bytes()
        for _ in range(12):
            damaged = bytearray(content)
            for _ in range(draw.randrange(1, 4)):
                at = draw.randrange(len(damaged))
                damaged[at : at + draw.randrange(12)] = draw.choice(
                    [b"", b"\xff", b"<", b"9" * 12, b"[", b"\n", b"NV0", b'"']
                )
            (tmp_path / "given.conf").write_bytes(damaged)
            made = cli("import", verb, tmp_path / "given.conf", *options)
            assert made.code in (0, 3), (bytes(damaged), made.err)
            if made.code == 0:
                checked = cli("check", saved(tmp_path, made.out, "made.yaml"))
                assert checked.code == 0, (bytes(damaged), made.out, checked.err)


INFRAGRAPH = SAMPLES / "clos.infragraph.yaml"


class TestInfragraph:
    def test_endpoints_are_expanded_instances_first(self, tmp_path: Path) -> None:
        made = cluster(tmp_path, import_infragraph(INFRAGRAPH, "dgx-a100"))
        spec = load_definition("cluster", str(tmp_path / "made.yaml"))
        assert isinstance(spec, ClusterSpec)
        assert isinstance(spec.fabric, GraphFabric)
        ends = [(link.source, link.target) for link in spec.fabric.links]
        assert ends[:4] == [("host.0", "leaf.0"), ("host.0", "leaf.0"), ("host.1", "leaf.0"), ("host.1", "leaf.0")]
        assert sorted(ends[8:]) == [(f"leaf.{a}", f"spine.{b}") for a in (0, 1) for b in (0, 1)]
        assert (made.n_nodes, made.n_accelerators) == (4, 32)

    def test_rates_and_latencies_are_those_of_the_links(self, tmp_path: Path) -> None:
        cluster(tmp_path, import_infragraph(INFRAGRAPH, "dgx-a100"))
        spec = load_definition("cluster", str(tmp_path / "made.yaml"))
        assert isinstance(spec, ClusterSpec)
        assert isinstance(spec.fabric, GraphFabric)
        links = {(link.bandwidth / GB, round(link.latency * 1e9)) for link in spec.fabric.links}
        assert links == {(25, 700), (50, 500)}

    def test_says_what_was_left_out(self) -> None:
        remarks = import_infragraph(INFRAGRAPH, "dgx-a100").remarks
        assert "1 of 3 spine have no cable and are left out" in remarks
        assert "servers have 2 cables, and dgx-a100 has 8 adapters" in remarks

    def test_cables_of_chips_belong_to_the_server(self, tmp_path: Path) -> None:
        ends = 'ep1: {instance: host, component: "board.chip"}, ep2: {instance: "spine[2]", component: port}'
        scale_up = f"  - {{link: up, scheme: one2one, {ends}}}\n"
        text = INFRAGRAPH.read_text(encoding="utf-8") + scale_up
        remarks = import_infragraph(saved(tmp_path, text), "dgx-a100").remarks
        assert "16 cables end at an XPU and are left out: the scale-up network is that of the server" in remarks
        assert "line 33: 16 ends against 32: the last 16 stay free" in remarks

    def test_rate_that_is_not_said_is_asked_for(self, tmp_path: Path) -> None:
        text = INFRAGRAPH.read_text(encoding="utf-8").replace("gigabytes_per_second", "gigatransfers_per_second")
        with pytest.raises(ConfigError) as error:
            import_infragraph(saved(tmp_path, text), "dgx-a100")
        assert problems(error) == [
            "32:5: link: link up says no rate in bits or bytes a second; give --rate '400 Gb/s'",
        ]
        made = import_infragraph(tmp_path / "given.conf", "dgx-a100", rate="100 Gb/s")
        assert "link up says no rate in bits or bytes a second: 100 Gb/s" in made.remarks

    @pytest.mark.parametrize(
        ("old", "new", "told"),
        [
            ("device: switch, count: 2", "device: swich, count: 2", "did you mean switch?"),
            ("{name: leaf, device", "{name: host, device", "a second instance of this name"),
            ("count: 16", "count: many", "a whole number from 1"),
            ('instance: "leaf[0]"', 'instance: "leaf[2]"', "leaf[2] is not among the 2 there are; from 0 to 1"),
            ('component: "port[0:4]"}}', 'component: "prot[0:4]"}}', "did you mean port?"),
            ("gigabits_per_second: 200", "gigabits_per_second: -1", "a number above 0"),
            ("scheme: many2many", "scheme: ring", "scheme ring is not read"),
            ("choice: xpu", "choice: cpu", "no instance is of a device with components of choice xpu"),
            ("count: 4, choice: device", "count: 3, choice: device", "server has 6 XPUs, and dgx-a100 has 8"),
            ("ep1: {instance: leaf,", 'ep1: {instance: "leaf[0]",', "does not hang together"),
            ("edges:\n  - {scheme", "other:\n  - {scheme", "holds no infrastructure"),
        ],
    )
    def test_tells_what_is_wrong_with_its_line(self, tmp_path: Path, old: str, new: str, told: str) -> None:
        text = INFRAGRAPH.read_text(encoding="utf-8")
        assert old in text
        with pytest.raises(ConfigError) as error:
            import_infragraph(saved(tmp_path, text.replace(old, new)), "dgx-a100")
        assert any(told in problem for problem in problems(error)), problems(error)
        assert all(problem[0].isdigit() for problem in problems(error))

    def test_verb_writes_what_check_accepts(self, cli: Cli, tmp_path: Path) -> None:
        target = tmp_path / "made.yaml"
        assert cli("import", "infragraph", INFRAGRAPH, "--node", "dgx-a100", "-o", target).code == 0
        assert cli("check", target).err == ""
