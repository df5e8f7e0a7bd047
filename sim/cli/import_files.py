"""The verbs under `import` that read files of others: networks of clusters, and servers from inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from sim.cli import complete, output

if TYPE_CHECKING:
    from sim.imports.foreign import ImportedFile

Source = Annotated[Path, Argument(metavar="FILE", help="The file to read; - for standard input.")]
Target = Annotated[
    Path | None, Option("--output", "-o", metavar="FILE", help="Write the definition there; printed if absent.")
]
Force = Annotated[bool, Option("--force", help="Replace the file if it exists.")]
Called = Annotated[str, Option("--name", help="Name of the definition; that of the file if absent.")]
OfServers = Annotated[
    str,
    Option(
        "--node",
        metavar="NAME",
        help="Kind of server that every node is, as in `clustersim list nodes`.",
        autocompletion=complete.nodes,
    ),
]
Like = Annotated[
    str,
    Option(
        "--node",
        metavar="NAME",
        help="Server with the same boards, for all that FILE does not say, as in `clustersim list nodes`.",
        autocompletion=complete.nodes,
    ),
]
LinkRate = Annotated[
    str, Option("--link-rate", metavar="RATE", help="Of one NVLink and direction; all as fast as NAME's if absent.")
]


def slurm(
    file: Source,
    node: OfServers = "dgx-h100",
    oversubscription: Annotated[
        float, Option("--oversubscription", min=1e-6, max=1000, help="Of each switch: capacity down over capacity up.")
    ] = 1.0,
    name: Called = "",
    target: Target = None,
    force: Force = False,
) -> int:
    """Read a topology.conf of Slurm (tree or block plugin) as a cluster.

    Equal leaves under the same spines become a fat tree, anything else a graph.
    """
    from sim.imports.slurm import import_slurm

    _check(target, force)
    return _deliver(import_slurm(file, node, name, oversubscription), target)


def graphml(
    file: Source,
    node: OfServers = "dgx-h100",
    nodes: Annotated[
        str,
        Option(
            "--nodes",
            metavar="WHICH",
            help="Vertices that are servers: all, leaves, KEY=VALUE, or a pattern of ids such as 'host*'. "
            "kind=node if absent.",
        ),
    ] = "",
    rate_key: Annotated[
        str, Option("--rate-key", metavar="KEY", help="Attribute that is an edge's rate.")
    ] = "bandwidth",
    rate_unit: Annotated[str, Option("--rate-unit", metavar="UNIT", help="Of rates that are bare numbers.")] = "",
    rate: Annotated[str, Option("--rate", metavar="RATE", help="Of edges that have none.")] = "",
    latency: Annotated[str, Option("--latency", metavar="TIME", help="Of edges that have none.")] = "0.5 us",
    name: Called = "",
    target: Target = None,
    force: Force = False,
) -> int:
    """Read a GraphML file of any origin as the network of a cluster."""
    from sim.imports.graphml import GraphmlOptions, import_graphml

    _check(target, force)
    options = GraphmlOptions(nodes, rate_key, rate_unit, rate, latency, name)
    return _deliver(import_graphml(file, node, options), target)


def infragraph(
    file: Source,
    node: OfServers = "dgx-h100",
    rate: Annotated[str, Option("--rate", metavar="RATE", help="Of links that have none.")] = "",
    name: Called = "",
    target: Target = None,
    force: Force = False,
) -> int:
    """Read an infrastructure of InfraGraph (YAML or JSON) as the network of a cluster."""
    from sim.imports.infragraph import import_infragraph

    _check(target, force)
    return _deliver(import_infragraph(file, node, name, rate), target)


def nccl_topo(
    file: Source,
    node: Like,
    link_rate: LinkRate = "",
    name: Called = "",
    target: Target = None,
    force: Force = False,
) -> int:
    """Read what NCCL writes with NCCL_TOPO_DUMP_FILE as a server."""
    from sim.imports.nccl_topology import import_nccl_topology

    _check(target, force)
    return _deliver(import_nccl_topology(file, node, name, _rate(link_rate)), target)


def nvidia_smi_topo(
    file: Source,
    node: Like,
    link_rate: LinkRate = "",
    name: Called = "",
    target: Target = None,
    force: Force = False,
) -> int:
    """Read the matrix of `nvidia-smi topo -m` as a server."""
    from sim.imports.topology_matrix import import_topology_matrix

    _check(target, force)
    return _deliver(import_topology_matrix(file, node, name, _rate(link_rate)), target)


def _rate(text: str) -> float:
    from sim.imports.foreign import option_quantity
    from sim.units import DATA_RATE

    return option_quantity(text, DATA_RATE, "--link-rate") if text else 0.0


def _check(target: Path | None, force: bool) -> None:
    from sim.inputs.fragment import check_target

    if target:
        check_target(target, force)


def _deliver(imported: ImportedFile, target: Path | None) -> int:
    """The definition into its file, or on stdout; what was assumed on stderr, as in the file itself."""
    from sim.report.files import write_text

    for remark in imported.remarks:
        output.say(remark)
    if target:
        write_text(target, imported.text, "--output")
        output.say(f"wrote {target}")
    else:
        output.emit(imported.text)
    return output.FINE
