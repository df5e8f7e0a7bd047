"""What NCCL says with NCCL_DEBUG=INFO NCCL_DEBUG_SUBSYS=INIT,COLL,TUNING, beside what the model of a platform does.

Lines as NVIDIA/nccl src/enqueue.cc and src/init.cc write them: `AllReduce: 1048576 Bytes -> Algo RING proto LL128
channel{Lo..Hi}={0..15}` (2.20 and later), `1048576 Bytes -> Algo 1 proto 2 time 35.5` (before, in us);
`comm 0x.. rank 0 nRanks 16 nNodes 2`, `[nranks=16]`. Rank 0 alone says what was chosen.

Public: `read_nccl_log`, `compare_choices`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sim.ask.validate.collectives import communicator
from sim.cluster.build import build_cluster
from sim.comm.tuner import collective_cost
from sim.errors import ConfigError, Problem
from sim.inputs.load import load_definition
from sim.inputs.reader import read_bytes, shown_path
from sim.inputs.records import ClusterSpec, Node, SwitchFabric
from sim.metrics.choices import ChoiceComparison, ComparedChoice, NcclChoice

MOST_BYTES = 2**29  # of a log
ALGORITHMS = ("TREE", "RING", "COLLNET_DIRECT", "COLLNET_CHAIN", "NVLS", "NVLS_TREE", "PAT")  # by number
PROTOCOLS = ("LL", "LL128", "SIMPLE")
OURS = {  # patterns that stand for them
    "TREE": ("tree",), "RING": ("ring", "exchange"), "COLLNET_DIRECT": ("in_network",),
    "COLLNET_CHAIN": ("in_network",), "NVLS": ("in_network",), "NVLS_TREE": ("in_network",), "PAT": (),
}  # fmt: skip
COLLECTIVES = {
    "allreduce": "all_reduce", "allgather": "all_gather", "reducescatter": "reduce_scatter", "broadcast": "broadcast",
    "alltoall": "all_to_all",
}  # fmt: skip
CHOSEN = re.compile(
    r"(?:(\w+): +)?(\d+) Bytes -> Algo (\w+) proto (\w+)"
    r"(?: time ([\d.]+))?(?: +channel\{Lo\.\.Hi\}=\{(\d+)\.\.(\d+)\})?"
)
NAMED = re.compile(r"(\w+): opCount \w+ .*\[nranks=(\d+)\]")
SIZED = re.compile(r"rank 0 nranks (\d+) nnodes (\d+)", re.IGNORECASE)
RANKS = re.compile(r"rank 0 nranks (\d+)\b", re.IGNORECASE)
PROCESS = re.compile(r"(\S+?:\d+):\d+ \[\d+\] NCCL INFO")
WAY_OUT = "run with NCCL_DEBUG=INFO NCCL_DEBUG_SUBSYS=INIT,COLL,TUNING"


def read_nccl_log(path: Path, ranks: int = 0, nodes: int = 0) -> tuple[list[NcclChoice], list[str]]:
    """What was chosen, and remarks. ranks, nodes: of all communicators, where the log does not say.

    Raises ConfigError where nothing is said of a choice, or not of how many ranks.
    """
    lines = read_bytes(path, MOST_BYTES, "a log of NCCL is some megabytes").decode("utf-8", "replace").splitlines()
    sizes = {int(found[1]): int(found[2]) for line in lines if (found := SIZED.search(line))}
    known = {ranks} if ranks else set(sizes) or {int(found[1]) for line in lines if (found := RANKS.search(line))}
    counts: Counter[NcclChoice] = Counter()
    unknown = 0
    for number, line in enumerate(lines):
        chosen = CHOSEN.search(line)
        if chosen is None:
            continue
        name, size = _named(lines, number, chosen[1])
        size = ranks or size or (next(iter(known)) if len(known) == 1 else 0)
        kind = COLLECTIVES.get(name.lower(), "")
        if not size or not kind:
            unknown += 1
            continue
        counts[_choice(chosen, kind, size, nodes or sizes.get(size, 0))] += 1
    if not counts:
        message = (
            f"{unknown} choices, of unknown collectives or ranks" if unknown else "says of no collective what it chose"
        )
        raise ConfigError(Problem(shown_path(path), "", message, f"{WAY_OUT}; --ranks and --nodes say the rest"))
    remarks = [f"{unknown} choices are of unknown collectives or ranks: left out (--ranks)"] if unknown else []
    return [replace(each, count=count) for each, count in counts.items()], remarks


def _named(lines: Sequence[str], number: int, name: str | None) -> tuple[str, int]:
    """Collective and ranks: older versions say them in the next line of the same process."""
    process = PROCESS.search(lines[number])
    for line in lines[number + 1 : number + 64]:
        found = NAMED.search(line)
        if found and (process is None or process[1] in line) and (name is None or found[1].lower() == name.lower()):
            return found[1], int(found[2])
    return name or "", 0


def _choice(chosen: re.Match[str], kind: str, ranks: int, nodes: int) -> NcclChoice:
    algorithm, protocol = chosen[3].upper(), chosen[4].upper()
    if algorithm.isdecimal():
        algorithm = ALGORITHMS[int(algorithm)] if int(algorithm) < len(ALGORITHMS) else algorithm
        protocol = PROTOCOLS[int(protocol)] if protocol.isdecimal() and int(protocol) < len(PROTOCOLS) else protocol
    channels = int(chosen[7]) - int(chosen[6]) + 1 if chosen[7] else None
    seconds = float(chosen[5]) * 1e-6 if chosen[5] else None
    return NcclChoice(kind, int(chosen[2]), ranks, nodes, algorithm, protocol, channels, seconds)


def compare_choices(path: Path, node_name: str, ranks: int = 0, nodes: int = 0) -> ChoiceComparison:
    """The choices in a log beside those of a kind of server, over several of them on one switch. Raises ConfigError."""
    node = load_definition("node", node_name)
    if not isinstance(node, Node):
        raise ConfigError(Problem("", "--node", f"{node_name} is no server", "clustersim list nodes"))
    choices, remarks = read_nccl_log(path, ranks, nodes)
    order = sorted(choices, key=lambda each: (each.collective, each.ranks, each.bytes, each.algorithm, each.protocol))
    compared = tuple(_compared(order, node, path))
    unlike = sorted({each.said.algorithm for each in compared if not OURS.get(each.said.algorithm)})
    if unlike:
        remarks.append(f"{', '.join(unlike)}: no pattern stands for it")
    return ChoiceComparison(node.name, compared, tuple(remarks))


def _compared(choices: Sequence[NcclChoice], node: Node, path: Path) -> Iterator[ComparedChoice]:
    for each in choices:
        nodes = each.nodes or -(-each.ranks // node.accelerators)
        if each.ranks % nodes or each.ranks // nodes > node.accelerators or each.ranks < 2:
            message = f"{each.ranks} ranks on {nodes} servers of {node.accelerators} accelerators"
            raise ConfigError(
                Problem(shown_path(path), "", message, "name the kind of server with --node, and --nodes")
            )
        fabric = SwitchFabric(kind="switch", rail_optimized=True) if nodes > 1 else None
        spec = ClusterSpec.from_si({"name": "logged", "nodes": nodes, "node": node, "fabric": fabric})
        cluster = build_cluster(spec, merge_sprayed=True)
        group = communicator(cluster, each.ranks // nodes, each.collective)
        cost = collective_cost(each.collective, float(each.bytes), group, cluster.node)
        agrees = cost.algorithm in OURS.get(each.algorithm, ())
        yield ComparedChoice(replace(each, nodes=nodes), cost.algorithm, cost.seconds(group), agrees)
