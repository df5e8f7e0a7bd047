"""The file format: one frozen record per definition, each field declared once.

Type, dimension, bounds, default and doc stand here; the decoder, the JSON Schema, `explain`
and the reference page come from these declarations. Quantities are SI floats after decoding.

Public: one class per record, and `Record.from_si` to build any of them from SI numbers.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, GetJsonSchemaHandler, Tag
from pydantic_core import CoreSchema

from sim.graph.adapters import LowRank
from sim.graph.kernels import Dispatcher, ExpertKernels, ExpertOverlap
from sim.graph.operation import LossKind, Recompute, RecomputePart
from sim.inputs.compression import Compression
from sim.inputs.energy import AcceleratorPower, ClusterPower, NodePower, PowerSetting, Prices, Site
from sim.inputs.forward import Evaluation
from sim.inputs.preparation import Preparation
from sim.inputs.pruning import Pruning
from sim.inputs.reliability import Failures, Recovery
from sim.inputs.setup import Setup
from sim.inputs.storage import Checkpointing, InputPipeline, Storage
from sim.inputs.synchronization import Synchronization
from sim.models.catalogue import AnyWorkload
from sim.record import Choice, Name, Precision, Record, Reference
from sim.schedule.catalogue import SCHEDULES
from sim.schedule.own import is_own
from sim.units import (
    Bytes,
    BytesPerSecond,
    Count,
    FlopsPerSecond,
    Fraction,
    Hertz,
    Seconds,
    Tokens,
    Watts,
)


class ScheduleName(Choice):
    """The name of a pipeline schedule, or a table as text."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Those in the table of schedules."""
        return tuple(SCHEDULES)

    @classmethod
    def stands_for_itself(cls, value: object) -> bool:
        """Tables that were read from a file do."""
        return isinstance(value, str) and is_own(value)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        names = super().__get_pydantic_json_schema__(schema, handler)
        return {"anyOf": [names, {"type": "string", "pattern": r"(\.csv$)|(: )"}]}


# --- accelerators ---------------------------------------------------------------------------

OptimizerName = Literal["adamw", "adamw_foreach", "adamw_foreach_2023", "adamw_fused", "adamw_loop", "adam8bit", "paged_adamw", "paged_adamw8bit", "sgd", "sgd_momentum", "lion", "adafactor", "muon", "lamb"]
DeviceKind = Literal["gpu", "tpu", "systolic", "matrix_engine", "cpu", "fpga", "asic"]
RateShare = Annotated[Fraction, Field(gt=0)]
Microbatches = Annotated[Count, Field(ge=1, le=1_000_000_000)]
TileEdge = Annotated[Count, Field(ge=1, le=1_000_000)]

class Rates(Record):
    """Arithmetic rates by number format; a missing format is not supported."""

    fp32: FlopsPerSecond | None = Field(default=None, gt=0, description="32-bit IEEE")
    tf32: FlopsPerSecond | None = Field(default=None, gt=0, description="19-bit TensorFloat")
    fp16: FlopsPerSecond | None = Field(default=None, gt=0, description="16-bit IEEE")
    bf16: FlopsPerSecond | None = Field(default=None, gt=0, description="16-bit bfloat")
    int8: FlopsPerSecond | None = Field(default=None, gt=0, description="8-bit integer")
    fp8: FlopsPerSecond | None = Field(default=None, gt=0, description="8-bit E4M3/E5M2")
    mxfp8: FlopsPerSecond | None = Field(default=None, gt=0, description="8-bit with a scale for each 32 elements")
    fp6: FlopsPerSecond | None = Field(default=None, gt=0, description="6-bit with a scale for each 32 elements")
    fp4: FlopsPerSecond | None = Field(default=None, gt=0, description="4-bit with a scale for each 32 elements")
    nvfp4: FlopsPerSecond | None = Field(default=None, gt=0, description="4-bit with a scale for each 16 elements and one for the tensor")


class MatrixUnit(Record):
    """How close matrix products come to the peak rate."""

    peak: Rates = Field(description="dense matrix peak rate by precision, without sparsity")
    efficiency: Fraction = Field(default=0.8, gt=0, description="share of the peak a large, tile-aligned product reaches")
    fp8_efficiency: Fraction | None = Field(default=None, gt=0, description="the same for fp8 and other formats of 8 bit and less; efficiency if absent")
    fp32_efficiency: Fraction | None = Field(default=None, gt=0, description="the same for fp32, which runs on the vector units; efficiency if absent")
    compute_units: Count = Field(default=1, ge=1, le=1_000_000, description="processors (SM, core, systolic array) that tiles spread over")
    tile: tuple[TileEdge, TileEdge] = Field(default=(128, 128), description="rows and columns of one output tile")
    halves_tiles: bool = Field(default=True, description="the library also has tiles of half the rows or columns, or both")
    quantization_floor: Fraction = Field(default=0.3, gt=0, description="least share kept under tile and wave quantization")
    curve: tuple[tuple[TileEdge, RateShare], ...] = Field(default=(), description="measured rate over size: edge of a cube, share of the sustained rate (`efficiency`) that its product reaches, edges rising; other shapes count as the cube with as many FLOPs; all 1 if absent (kinds other than gpu)")
    spread: Fraction = Field(default=0.0, lt=0.2, description="standard deviation of the sustained rate from board to board, as a share of it")



class FusedAttention(Record):
    """Share of the matrix peak that one fused attention kernel reaches, long sequences, heads of 128."""

    forward: Fraction = Field(default=0.6, gt=0, description="forward pass")
    backward: Fraction = Field(default=0.5, gt=0, description="backward pass")
    narrow: Fraction = Field(default=1.0, gt=0, description="rate with heads of 64 over that with heads of 128")


class AcceleratorMemory(Record):
    """Device memory."""

    capacity: Bytes = Field(gt=0, description="memory of one accelerator")
    bandwidth: BytesPerSecond = Field(gt=0, description="peak memory bandwidth")
    efficiency: Fraction = Field(default=0.85, gt=0, description="share of the peak that streaming kernels reach")
    reserved: Bytes = Field(default=0.0, ge=0, description="taken by context, libraries and communication buffers")
    domains: Count = Field(default=1, ge=1, le=64, description="memory domains (NUMA) that one accelerator spans with its pages spread over them; all but one part in so many crosses between them")
    domain_link: BytesPerSecond | None = Field(default=None, gt=0, description="payload that crosses between the domains; no limit if absent")


class ConfiguredArray(Record):
    """Multipliers of an FPGA as a design lays them out: an array that keeps its results in place while operands stream."""

    rows: TileEdge = Field(description="multipliers along the rows of a product")
    columns: TileEdge = Field(description="multipliers along its columns")
    clock: Hertz = Field(gt=0, description="clock of the design")
    packed: Count = Field(default=1, ge=1, le=16, description="multiply-adds of one multiplier and cycle in the narrowest format")
    on_chip: Bytes = Field(gt=0, description="on-chip memory that holds parts of the operands")


class Accelerator(Record):
    """One kind of accelerator: a data file with a source for every number."""

    name: Name = Field(description="the name it is found by")
    kind: DeviceKind = Field(default="gpu", description="device family, which chooses how operations are timed: gpu: tiles in waves over processors; systolic (tpu is the same): sizes are padded to arrays, one compiled program; matrix_engine: one engine that takes the shape which suits a product; cpu: cores with vector and matrix units; fpga: an array as configured; asic: a roofline with a rate over size")
    package: Count = Field(default=1, ge=1, le=16, description="devices in one package; all numbers of the file are of one device, and degrees of parallelism count devices")
    vendor: str = Field(default="", description="who makes it")
    matrix: MatrixUnit = Field(description="matrix arithmetic")
    vector: Rates = Field(default=Rates(), description="peak rate of elementwise arithmetic by precision; it counts where random numbers are drawn for dropout, and for heads that tensor cores cannot load, since other elementwise kernels are bound by memory")
    attention: dict[Literal["flash1", "flash2", "cudnn"], FusedAttention] = Field(
        default={}, description="fused attention by kernel: FlashAttention 1 or 2, or the vendor's library"
    )
    memory: AcceleratorMemory = Field(description="device memory")
    array: ConfiguredArray | None = Field(default=None, description="the configured array (fpga)")
    launch: Seconds = Field(default=0.0, ge=0, description="device-side cost of starting one kernel; none in a compiled program (systolic, matrix_engine, fpga)")
    power: AcceleratorPower = Field(description="board power")
    assumed: tuple[str, ...] = Field(default=(), description="key paths whose values are not of this chip: shares of the peak and the like that were left out, and are the medians of the catalogue for its kind; reports list them, and trust is less")
    sources: dict[str, str] = Field(description="key path (or its prefix) to the source of its numbers")


# --- nodes ------------------------------------------------------------------------------------


class LocalNetwork(Record):
    """What joins the accelerators of one node."""

    kind: Literal["switch", "hybrid_cube_mesh", "ring", "mesh", "torus", "pcie", "none"] = Field(
        default="switch", description="switch: every port full rate to every other; mesh: a link per pair; torus: a link to each neighbour in a grid"
    )
    shape: tuple[Count, ...] = Field(default=(), max_length=3, description="accelerators along each dimension of a torus, the last one fastest")
    wrap: tuple[bool, ...] = Field(default=(), max_length=3, description="whether each dimension of a torus closes to a ring; all do if absent")
    twisted: bool = Field(default=False, description="a torus of n x n x 2n or n x 2n x 2n whose short dimensions close n further along the first long one")
    bandwidth: BytesPerSecond = Field(default=0.0, ge=0, description="per accelerator and direction, all ports together")
    efficiency: Fraction = Field(default=1.0, gt=0, description="share of the line rate that payload reaches when saturated")
    latency: Seconds = Field(default=0.0, ge=0, description="one hop, accelerator to accelerator")
    in_network_reduction: bool = Field(default=False, description="the switch adds and multicasts (NVLS)")
    reduction_efficiency: Fraction = Field(default=0.85, gt=0, description="share of the rate reached with in-network reduction")


class Bridges(Record):
    """Bridges that join neighbouring boards of a node and no others, as NVLink bridges do."""

    bandwidth: BytesPerSecond = Field(gt=0, description="of a board over its bridge, per direction")
    efficiency: Fraction = Field(default=0.69, gt=0, description="share of the line rate that payload reaches when saturated")
    boards: Count = Field(default=2, ge=2, le=4, description="boards that one bridge joins, in order of their numbers")


class Pcie(Record):
    """How boards, adapters and sockets of a node are joined over PCIe. Parts are shared out in order, as evenly as may be."""

    switches: Count = Field(default=0, ge=0, le=64, description="PCIe switches that boards share; 0: a root port for each board")
    uplink: BytesPerSecond | None = Field(default=None, gt=0, description="line rate from a switch to its root port, per direction; that of a board if absent")
    sockets: Count = Field(default=1, ge=1, le=16, description="processor sockets that root ports are divided over, each with its memory")
    socket_bandwidth: BytesPerSecond = Field(default=0.0, ge=0, description="payload from one socket to another, per direction")
    adapters: Literal["switch", "root"] = Field(default="switch", description="where an adapter sits: at the switch of the first board that it serves, or (always without switches) on a root port of that board's socket")
    peer_access: Literal["none", "switch", "socket", "all"] = Field(default="all", description="how far boards and adapters reach the memory of a board; farther, data go up into host memory and down again")
    staged_efficiency: Fraction = Field(default=0.64, gt=0, description="share of a root port's line rate that payload reaches in and out of host memory, where data are staged there")
    bridges: Bridges | None = Field(default=None, description="bridges between neighbouring boards; none if absent")


class Nic(Record):
    """Network adapters of one node."""

    count: Count = Field(default=1, ge=0, le=1024, description="adapters; rail i serves accelerators i*accelerators/count and on, and an accelerator with several has as many as all others")
    bandwidth: BytesPerSecond = Field(default=0.0, ge=0, description="line rate of one adapter per direction")
    efficiency: Fraction = Field(default=1.0, gt=0, description="share of the line rate that payload reaches when saturated")
    latency: Seconds = Field(default=0.0, ge=0, description="adapter and host path, one way")
    window: Bytes = Field(default=12 * 2**20, gt=0, description="bytes on their way over one connection: where round trips are long, it moves no more than window over round trip")
    ring_exits: Literal["every_rank", "one"] = Field(default="every_rank", description="where the rings of a communicator leave a node: in turn at each of its ranks there, or all at one")


class CollectiveTuning(Record):
    """Start-up and ramp of collectives on this platform: time = start + bytes/rate + ramp*sqrt(bytes)."""

    floor: Seconds = Field(default=0.0, ge=0, description="least time of any collective, launch and synchronisation")
    floor_network: Seconds | None = Field(default=None, ge=0, description="the same between nodes; floor if absent")
    ring_hop: Seconds = Field(default=0.0, ge=0, description="per step of a ring inside the node, its hop included; local.latency if that is longer")
    ring_hop_network: Seconds = Field(default=0.0, ge=0, description="per step of a ring between nodes")
    tree_hop: Seconds = Field(default=0.0, ge=0, description="per level of a tree inside the node, its hop included; local.latency if that is longer")
    tree_hop_network: Seconds = Field(default=0.0, ge=0, description="per level of a tree between nodes")
    in_network: Seconds = Field(default=0.0, ge=0, description="start of an in-network reduction")
    patterns: tuple[Literal["ring", "torus", "tree", "in_network", "exchange", "direct", "hierarchical", "broadcast"], ...] = Field(
        default=("ring", "tree", "in_network", "exchange", "broadcast"), description="ways to run collectives that the library of the platform has and chooses from"
    )
    tree_efficiency: Fraction = Field(default=0.92, gt=0, description="rate of a tree relative to a ring")
    ramp: float = Field(default=0.0, ge=0, le=1, description="seconds per square root of byte: fill of the chunk pipeline")
    ramp_limit: Seconds | None = Field(default=None, ge=0, description="longest ramp, with chunks at their largest; no limit if absent")
    ramp_network: float | None = Field(default=None, ge=0, le=1, description="the same between nodes; ramp if absent")
    ramp_limit_network: Seconds | None = Field(default=None, ge=0, description="the same as ramp_limit between nodes; ramp_limit if absent")


class Host(Record):
    """The host of a node."""

    cores: Count = Field(default=0, ge=0, le=1_000_000, description="physical processor cores")
    memory: Bytes = Field(default=0.0, ge=0, description="host memory")
    pcie_bandwidth: BytesPerSecond = Field(default=0.0, ge=0, description="host to one accelerator, per direction; 0: not modelled")


class Node(Record):
    """One kind of server."""

    name: Name = Field(description="the name it is found by")
    accelerator: Reference[Accelerator] = Field(description="accelerator by name, path or inline")
    accelerators: Count = Field(ge=1, le=576, description="accelerators in the node; a slice of a torus that is rented whole is a node too")
    local: LocalNetwork = Field(default=LocalNetwork(), description="network inside the node")
    pcie: Pcie | None = Field(default=None, description="root ports, switches and sockets: the ways of a local network of kind pcie, elsewhere those to the adapters; one switch if absent")
    nics: Nic = Field(default=Nic(), description="adapters to the network between nodes")
    collectives: CollectiveTuning = Field(default=CollectiveTuning(), description="start-up and ramp of collectives")
    host: Host = Field(default=Host(), description="processor and memory of the host")
    power: NodePower = Field(default=NodePower(), description="power of everything but the accelerators")
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to the source of its numbers")


# --- clusters ---------------------------------------------------------------------------------


class FabricLink(Record):
    """One kind of cable between switches, or between node and switch."""

    bandwidth: BytesPerSecond = Field(gt=0, description="line rate per direction")
    efficiency: Fraction = Field(default=1.0, gt=0, description="share that payload reaches when saturated")
    latency: Seconds = Field(default=0.0, ge=0, description="one hop, switch included")


class Routing(Record):
    """How a flow chooses among equal paths."""

    kind: Literal["d_mod_k", "ecmp", "spray"] = Field(default="d_mod_k", description="by destination, by hash, or over all paths")
    queue_pairs: Count = Field(default=1, ge=1, le=64, description="hashed sub-flows per connection (ecmp)")
    seed: int = Field(default=0, ge=0, description="seed of the hash (ecmp)")


class SwitchFabric(Record):
    """All nodes on one non-blocking switch (one per rail if rail_optimized)."""

    kind: Literal["switch"]
    rail_optimized: bool = Field(default=False, description="adapter i of every node on switch i")
    link: FabricLink | None = Field(default=None, description="node to switch; the adapter's rate if absent")


class FatTreeFabric(Record):
    """Two- or three-tier leaf-spine(-core) network, rail-optimized or plain."""

    kind: Literal["fat_tree"]
    tiers: Literal[2, 3] = Field(default=2, description="switch layers")
    rail_optimized: bool = Field(default=False, description="adapter i of a unit's nodes on leaf i of the unit")
    nodes_per_unit: Count = Field(ge=1, le=200_000, description="nodes under one leaf (plain) or one group of rail leaves")
    units_per_pod: Count = Field(default=1, ge=1, le=200_000, description="units under one set of spines (three tiers)")
    spines: Count = Field(default=1, ge=1, le=100_000, description="spine switches a leaf connects to (per rail if rail_optimized, per pod with three tiers)")
    cores: Count = Field(default=1, ge=1, le=100_000, description="core switches a spine connects to (three tiers)")
    leaf_oversubscription: float = Field(default=1.0, ge=1e-6, le=1000, description="leaf: capacity down over capacity up")
    spine_oversubscription: float = Field(default=1.0, ge=1e-6, le=1000, description="spine: capacity down over capacity up (three tiers)")
    link: FabricLink | None = Field(default=None, description="latency and efficiency of switch links; capacity follows from the oversubscription")


class TorusFabric(Record):
    """Two- or three-dimensional torus with a node at each point."""

    kind: Literal["torus"]
    shape: tuple[Count, ...] = Field(min_length=1, max_length=3, description="nodes along each dimension")
    link: FabricLink = Field(description="one link to one neighbour")


class DragonflyFabric(Record):
    """Groups of routers, all-to-all inside the group and between groups."""

    kind: Literal["dragonfly"]
    groups: Count = Field(ge=1, le=10_000, description="groups")
    routers_per_group: Count = Field(ge=1, le=10_000, description="routers in a group")
    nodes_per_router: Count = Field(ge=1, le=10_000, description="nodes on a router")
    local_link: FabricLink = Field(description="router to router in a group")
    global_link: FabricLink = Field(description="group to group; all cables of a pair together")


class GraphNode(Record):
    """A vertex of an explicit graph."""

    id: Name = Field(description="name of the vertex")
    kind: Literal["node", "storage", "switch"] = Field(default="switch", description="node: a server of the cluster's node kind; storage: a storage server")


class GraphEdge(Record):
    """An edge of an explicit graph; both directions have the full rate."""

    source: Name = Field(description="one end")
    target: Name = Field(description="other end")
    bandwidth: BytesPerSecond = Field(gt=0, description="line rate per direction")
    efficiency: Fraction = Field(default=1.0, gt=0, description="share that payload reaches when saturated")
    latency: Seconds = Field(default=0.0, ge=0, description="one way")


class GraphFabric(Record):
    """An explicit network: node-link lists here, or a GraphML file."""

    kind: Literal["graph"]
    nodes: tuple[GraphNode, ...] = Field(default=(), description="vertices (node-link form)")
    links: tuple[GraphEdge, ...] = Field(default=(), description="edges (node-link form)")
    graphml: str | None = Field(default=None, description="path of a GraphML file, relative to the definition")


Fabric = Annotated[
    SwitchFabric | FatTreeFabric | TorusFabric | DragonflyFabric | GraphFabric, Field(discriminator="kind")
]


class NodeGroup(Record):
    """Some nodes of a cluster that has several kinds of them."""

    node: Reference[Node] = Field(description="server kind by name, path or inline")
    nodes: Count = Field(ge=1, le=200_000, description="servers of this kind")
    prices: Reference[Prices] | None = Field(default=None, description="what these cost where an experiment names no prices; those of the cluster if absent")


def _nodes_form(value: object) -> str:
    return "name" if isinstance(value, str) else "tuple" if isinstance(value, list | tuple) else "inline"


Nodes = Annotated[
    Annotated[str, Tag("name")] | Annotated[Node, Tag("inline")] | Annotated[tuple[NodeGroup, ...], Field(min_length=1, max_length=32), Tag("tuple")],
    Discriminator(_nodes_form),
]
"""One kind of node, or several with their counts; nodes are numbered in the order of the list."""


class ClusterSpec(Record):
    """A cluster: how many nodes of which kind, and the network between them."""

    name: Name = Field(description="the name it is found by")
    aliases: tuple[Name, ...] = Field(default=(), description="other names in the catalogue")
    provider: str = Field(default="", description="cloud that rents it out")
    prices: Reference[Prices] | None = Field(default=None, description="what it costs where an experiment names no prices, by name, path or inline")
    nodes: Count = Field(ge=1, le=200_000, description="servers; with several kinds of them the sum of their counts, which may be left out")
    node: Nodes = Field(description="server kind by name, path or inline; or a list of several kinds, each with its count")
    fabric: Fabric | None = Field(default=None, description="network between nodes; may be left out for one node")
    routing: Routing = Field(default=Routing(), description="choice among equal paths")
    storage: Reference[Storage] | None = Field(default=None, description="shared storage by name, path or inline")
    power: ClusterPower = Field(default=ClusterPower(), description="power of switches and optics")
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to the source of its numbers")

    @property
    def groups(self) -> tuple[NodeGroup, ...]:
        """Its nodes by kind, in the order of their numbers; one group where all are of a kind."""
        if isinstance(self.node, tuple):
            return self.node
        return (NodeGroup.model_construct(node=self.node, nodes=self.nodes, prices=None),)

    def resized(self, nodes: int) -> ClusterSpec:
        """The cluster with so many nodes; several kinds in proportion, as nearly as whole nodes allow."""
        if nodes == self.nodes:
            return self
        if not isinstance(self.node, tuple):
            return self.model_copy(update={"nodes": nodes})
        ends = [round(end * nodes / self.nodes) for end in accumulate(group.nodes for group in self.node)]
        counts = [end - start for start, end in pairwise([0, *ends])]
        groups = (group.model_copy(update={"nodes": n}) for group, n in zip(self.node, counts, strict=True) if n)
        return self.model_copy(update={"nodes": nodes, "node": tuple(groups)})


# --- software ---------------------------------------------------------------------------------


class Choices(Record):
    """What a software stack lets its user choose; `clustersim plan` tries nothing else unless its space is wide."""

    kind: tuple[Name, ...] = Field(default=(), description="families of models that it trains, by their kind; any if empty")
    tensor: tuple[Count, ...] = Field(default=(), description="values of parallelism.tensor; any if empty")
    context: tuple[Count, ...] = Field(default=(), description="values of parallelism.context; any if empty")
    pipeline: tuple[Count, ...] = Field(default=(), description="values of parallelism.pipeline; any if empty")
    virtual_stages: tuple[Count, ...] = Field(default=(), description="values of parallelism.virtual_stages; any if empty")
    schedule: tuple[ScheduleName, ...] = Field(default=(), description="values of parallelism.schedule; 1f1b, gpipe and its own if empty")
    recompute: tuple[Recompute, ...] = Field(default=(), description="values of training.recompute; any if empty")
    sequence_parallel: tuple[bool, ...] = Field(default=(), description="values of parallelism.sequence_parallel; any if empty")
    zero_stage: tuple[Literal[0, 1, 2, 3], ...] = Field(default=(), description="values of parallelism.zero_stage; any if empty")
    tensor_overlap: tuple[Literal["none", "backward", "full"], ...] = Field(default=(), description="values of tensor_overlap beside the stack's own")
    gradient_overlap: tuple[bool, ...] = Field(default=(), description="values of gradient_overlap beside the stack's own")
    parameter_prefetch: tuple[bool, ...] = Field(default=(), description="values of parameter_prefetch beside the stack's own")
    pipeline_overlap: tuple[bool, ...] = Field(default=(), description="values of pipeline_overlap beside the stack's own")
    scatter_gather: tuple[bool, ...] = Field(default=(), description="values of scatter_gather beside the stack's own")


class Software(Record):
    """A software stack: how it issues work. A property of the stack, never of one run."""

    name: Name = Field(description="the name it is found by")
    description: str = Field(default="", description="who uses it, in a line")
    assumed: bool = Field(default=False, description="nobody named it: it stands for the stack that the run has")
    gradient_overlap: bool = Field(default=True, description="data-parallel gradient traffic runs beside the backward pass")
    gradient_bucket: Bytes = Field(default=0.0, ge=0, description="bytes of gradients per collective; 0: one bucket per layer")
    parameter_prefetch: bool = Field(default=True, description="ZeRO-3/FSDP gathers the next layer while this one computes")
    tensor_overlap: Literal["none", "backward", "full"] = Field(default="none", description="tensor-parallel collectives run beside weight gradients (backward) or beside all products (full)")
    sums_partials: bool = Field(default=False, description="the sum over ranks of a product that runs beside its traffic is a kernel of its own (PyTorch, fused_matmul_reduce_scatter)")
    pipeline_overlap: bool = Field(default=False, description="stage-to-stage sends run beside computation")
    scatter_gather: bool = Field(default=True, description="each tensor rank sends its share between stages, gathered after")
    gradient_bytes: Literal[2, 4] = Field(default=4, description="bytes per gradient element that is kept and accumulated")
    gradient_comm_bytes: Literal[2, 4] = Field(default=2, description="bytes per gradient element on the network")
    attention_kernel: Literal["flash1", "flash2", "cudnn"] = Field(default="cudnn", description="fused attention: FlashAttention 1 or 2, or the vendor's library")
    joins_matrices: bool = Field(default=True, description="matrices with the same input are one product (query, key and value; gate and up)")
    batch_first: bool = Field(default=False, description="activations are laid out batch before sequence, so a tensor-parallel collective along the sequence copies what it gathered or is about to reduce (PyTorch)")
    keeps_gathered: bool = Field(default=False, description="what a product gathered along the sequence is kept, or computed again, for its backward pass; else it is gathered once more (Megatron)")
    stops_recompute: bool = Field(default=False, description="full recomputation ends when the backward pass has all it needs, before the last product of a layer and its sum over ranks (PyTorch, non-reentrant checkpoint; compilers)")
    fusion: Literal["none", "pointwise", "library", "epilogue"] = Field(default="none", description="what follows a convolution: a kernel for each norm, sum and activation; pointwise chains joined to the norm, as compilers do; kernels of a library for norm, sum and rectifier (cuDNN; 16 bit and channels last only); and norm statistics and activations made where products write")
    channels_first: tuple[Precision, ...] = Field(default=(), description="precisions in which images lie channels first, so that convolutions on tensor cores copy what they read and write")
    recurrence: Literal["eager", "library", "persistent"] = Field(default="library", description="recurrent layers: each operation of a cell a kernel; two kernels a step (cuDNN); or one kernel that keeps the weights on the chip for all steps")
    repeats_keys: bool = Field(default=False, description="keys and values are copied to every query head before attention, also where query heads share them")
    ring_attention: Literal["fused", "separate", "compiled"] = Field(default="fused", description="context parallelism: blocks are merged as they are computed, or by 32-bit kernels of their own (PyTorch); compiled, these are fused and all traffic is waited for at once")
    fused_accumulation: bool = Field(default=True, description="weight gradients are added up inside the product, not by a kernel of their own")
    fp8_scaling: Literal["delayed", "current", "dynamic"] = Field(default="delayed", description="scale of fp8 tensors: from earlier steps, or from a pass over the tensor itself; dynamic also casts weights at each use")
    cross_entropy: LossKind = Field(default="vocabulary_parallel", description="kernels of the loss, and which logits it keeps: Megatron's; PyTorch's one by one in 32 bit (eager) or 16 (eager_16bit, eager_16bit_held where the caller keeps them); fused by a compiler; one each way and PyTorch's forward for two metrics (Composer); of Transformers, now or in 2023; in parts that are computed again (chunked), or whose gradients are made at once (liger)")
    loss_chunks: Count = Field(default=8, ge=1, le=100_000, description="parts of the logits, for cross_entropy chunked and liger")
    autocast: bool = Field(default=False, description="16-bit training by torch.autocast without sharding: weights, norms and the residual stream stay in 32 bit, weights are cast in each pass, products cast what they read")
    pointwise: Literal["native", "transformers", "written_out"] = Field(default="native", description="norms and activations: kernels that keep their input; RMS norms of Transformers, which keep a 32-bit copy and what they scaled; or layer norms and GELU written out operator by operator, a kernel each, as in books and courses")
    gradient_buffer: bool = Field(default=True, description="gradients are added up in a buffer that is always there (Megatron, DeepSpeed); else they come with the backward pass and go with the step (PyTorch)")
    bucket_copy: bool = Field(default=False, description="buckets of data-parallel gradients are memory beside the gradients (PyTorch DDP without gradient_as_bucket_view)")
    bucket_memory: Bytes = Field(default=0.0, ge=0, description="buffers of gradients on their way, beside them (DeepSpeed, reduce_bucket_size)")
    live_parameters: Count = Field(default=0, ge=0, le=1_000_000_000_000, description="ZeRO-3: gathered weights that are kept for their next use (DeepSpeed, stage3_max_live_parameters)")
    step_copy_bytes: float = Field(default=0.0, ge=0, le=1000, description="bytes per local parameter of copies of gradients that the optimizer step makes")
    step_group: Count = Field(default=0, ge=0, le=1_000_000_000_000, description="local parameters that the step copies at once; 0: all (DeepSpeed ZeRO-3, sub_group_size)")
    accumulates_whole: bool = Field(default=False, description="gradients of several microbatches are added up whole and reduced after the last (accelerate's no_sync, FSDP set_requires_gradient_sync); memory only")
    allocator_share: float = Field(default=1.03, ge=1, le=2, description="memory that the allocator takes for activations and temporary tensors over what they need")
    optimizer: OptimizerName = Field(default="adamw_fused", description="what training.optimizer is if it is not said")
    root_unit: bool = Field(default=False, description="ZeRO-3: what is in no layer (embedding, last norm, head) is one unit, gathered before the first pass, kept, and reduced after the last (PyTorch FSDP)")
    gather_copy_bytes: float = Field(default=0.0, ge=0, le=1000, description="ZeRO-3: memory traffic per parameter to lay out gathered weights, each pass")
    gathers_narrow: bool = Field(default=False, description="ZeRO-3: matrices of layers are cast before they are gathered, where products have 8 bit or less (torchao, enable_fsdp_float8_all_gather)")
    reduce_copy_bytes: float = Field(default=0.0, ge=0, le=1000, description="ZeRO-3: memory traffic per parameter to lay out, cast and scale gradients, each backward pass")
    master_weights: Literal["copy", "remainder", "sole"] = Field(default="copy", description="32-bit weights of 16-bit training: a copy beside the others; of bf16 weights only the 16 bits that they lack (Apex, DistributedFusedAdam); or the only ones that are kept, cast when they are gathered or used (PyTorch FSDP)")
    moment_bytes: Literal[2, 4] = Field(default=4, description="bytes of each of Adam's two moments and of a master copy; weights as wide as they are need no copy")
    optimizer_bytes: float = Field(default=42.0, ge=0, le=10_000, description="memory traffic of the optimizer step per local parameter")
    fused_kernels: bool = Field(default=True, description="bias, dropout, residual and activation fused into few kernels")
    pads_vocabulary: Count = Field(default=1, ge=1, le=100_000, description="the vocabulary of each tensor rank is padded to a multiple of this (Megatron, make-vocab-size-divisible-by)")
    experts: ExpertKernels = Field(default=ExpertKernels(), description="how layers of experts run")
    host_issue: Seconds = Field(default=0.0, ge=0, description="host time to issue one kernel (eager frameworks)")
    blocking_launches: bool = Field(default=False, description="the host waits for each kernel before it issues the next (CUDA_LAUNCH_BLOCKING=1)")
    overlap_slowdown: Fraction = Field(default=0.0, lt=1, description="share of the processors that overlapped collectives take from computation")
    step_overhead: Seconds = Field(default=0.0, ge=0, description="per step: data loading, logging, loss reduction, clipping synchronisation")
    vendors: tuple[str, ...] = Field(default=(), description="makers of the accelerators that it runs on; any if empty. Where no stack is named, others are not compared; an experiment may say more")
    kinds: tuple[DeviceKind, ...] = Field(default=("gpu",), description="kinds of accelerators that it runs on")
    choices: Choices = Field(default=Choices(), description="what the stack lets its user choose, for the search of plans")
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to the source of its numbers")


# --- experiments ------------------------------------------------------------------------------


class Parallelism(Record):
    """How the work is divided over ranks."""

    tensor: Count = Field(default=1, ge=1, description="ranks that share each matrix")
    pipeline: Count = Field(default=1, ge=1, description="pipeline stages")
    data: Count | None = Field(default=None, ge=1, description="replicas; accelerators/(tensor*pipeline*context) if absent")
    context: Count = Field(default=1, ge=1, description="ranks that share each sequence (ring attention)")
    ulysses: Count = Field(default=1, ge=1, description="ranks among those of context that exchange positions for heads around attention (all-to-all, DeepSpeed-Ulysses) instead of passing keys and values on; 1: ring attention, context: no ring, between: both")
    expert: Count = Field(default=1, ge=1, description="ranks over which the experts of a layer are divided, among those of tensor, context and data; 1 for dense models")
    expert_tensor: Count = Field(default=1, ge=1, description="ranks that share each matrix of an expert; 1 for dense models")
    dispatcher: Dispatcher | None = Field(default=None, description="how tokens reach their experts, all_to_all or deduplicated; as the software does it if absent")
    expert_overlap: ExpertOverlap | None = Field(default=None, description="what the exchange of tokens runs beside: none, shared or microbatch; as the software does it if absent")
    virtual_stages: Count = Field(default=1, ge=1, description="model chunks per stage (1f1b: interleaved)")
    layers_per_stage: tuple[Count, ...] | None = Field(default=None, description="layers of each stage, or of each model chunk in model order; 0 at an end leaves embedding or head a stage of its own; divided evenly, what is left in the middle, if absent")
    schedule: ScheduleName = Field(default=ScheduleName("1f1b"), description="order of microbatches; 1f1b with virtual_stages > 1 is interleaved; a file of one's own, as mine.csv, has a line for each task: stage, phase (forward, backward, weight), chunk, microbatch")
    microbatches: Literal["equal", "proportional"] | tuple[Microbatches, ...] = Field(
        default="equal", description="microbatches of each data-parallel replica: as many for all; in proportion to how fast each runs them, so that the slow ones end with the others; or a list, of which the sum times microbatch is the global batch"
    )
    sequence_parallel: bool = Field(default=False, description="norms and dropout split along the sequence over tensor ranks")
    zero_stage: Literal[0, 1, 2, 3] = Field(default=0, description="what data-parallel ranks shard: 1 optimizer, 2 and gradients, 3 and weights (FSDP)")
    quantized_gathers: bool = Field(default=False, description="ZeRO-3: matrices of layers are gathered as 8-bit integers with a scale for each 2,048 (ZeRO++), made and unmade by kernels")
    shard_group: Count | None = Field(default=None, ge=1, description="ranks that share one sharded copy (HSDP); all data ranks if absent")
    second_copy: Count | None = Field(default=None, ge=2, description="ZeRO-3: neighbouring ranks, as those of a node, that share a second copy of the weights, gathered among them for the backward pass (ZeRO++, hpZ); none if absent")
    order: tuple[Literal["tensor", "context", "expert", "data", "pipeline"], ...] = Field(
        default=("tensor", "context", "data", "pipeline"), description="rank order, fastest dimension first; expert may be named, and changes nothing"
    )
    placement: Literal["packed", "round_robin", "random", "random_nodes", "fragmented"] | tuple[int, ...] = Field(
        default="packed", description="rank to accelerator: in order, node by node in turn, seeded shuffle of accelerators or of whole nodes, in order on seeded nodes of the whole cluster, or an explicit list"
    )
    on_nodes: tuple[Name, ...] | None = Field(default=None, description="nodes to use, by name and in this order, as [node3, node17]; all of the cluster if absent")


class Offload(Record):
    """What lies in host memory instead of the accelerator's."""

    optimizer: bool = Field(default=False, description="optimizer state and master weights; the host runs the step (Adam at 28 B of host memory traffic per parameter, 25 GB/s a process); gradients go down and new weights come up over PCIe")
    drives: bool = Field(default=False, description="the optimizer's state lies on the drives of the node (cluster.storage of kind local_nvme), and is read and written beside the host's step")
    parameters: bool = Field(default=False, description="sharded weights too (ZeRO-3); they cross PCIe before each gather, one segment ahead")
    activations: bool = Field(default=False, description="what layers keep from forward to backward pass; they cross PCIe behind their pass and again before it is needed, segment by segment, while two layers' worth is on the board")


class Training(Record):
    """What is trained and how."""

    global_batch: Count = Field(ge=1, le=1_000_000_000_000, description="samples (sequences, images) per step over all replicas")
    microbatch: Count = Field(default=1, ge=1, le=1_000_000, description="samples per rank and forward pass")
    sequence_length: Count | None = Field(default=None, ge=1, le=1_000_000_000, description="tokens per sequence; required where samples are sequences of tokens")
    document_length: Count | None = Field(default=None, ge=1, description="tokens per document, where several are packed into a sequence and attention stays inside each; for unequal ones sum of squares over sum; the sequence is one document if absent")
    precision: Precision = Field(default="bf16", description="number format of matrix products")
    optimizer: OptimizerName | None = Field(default=None, description="kind of optimizer, which its state, its step's memory and time follow (adamw: with the kernels that the stack has for it); that of the software stack if absent")
    offload: Offload = Field(default=Offload(), description="what lies in host memory")
    compression: Compression = Field(default=Compression(), description="how gradients are made smaller before they are summed")
    pruning: Pruning = Field(default=Pruning(), description="weights that are left out of products")
    recompute: Recompute | tuple[RecomputePart, ...] = Field(default="none", description="activations computed again in the backward pass: none; attention only; all but attention, sums over ranks and every other product (selective op of TorchTitan); all but the products of query, key and value (save_qkv_proj of MaxText); all. Or a list of parts of a layer, as in Megatron: norm, activation and up_projection (latent attention) are made anew where they are needed, attention and feed_forward run again and keep their result")
    lora: LowRank | None = Field(default=None, description="train adapters beside frozen weights; every weight is trained if absent")
    evaluation: Evaluation | None = Field(default=None, description="passes over other samples now and then, forward alone; none if absent")
    tokens: Tokens | None = Field(default=None, gt=0, description="tokens of the whole training; gives time-to-train")
    samples: Count | None = Field(default=None, ge=1, description="samples of the whole training, instead of tokens; gives time-to-train")
    time_limit: Seconds | None = Field(default=None, gt=0, description="wall-clock time after which the training is cut off")


class Degradation(Record):
    """A part that works, but slowly, for the whole step."""

    accelerator: str | None = Field(default=None, description="name of the accelerator, as in `clustersim list CLUSTER`")
    link: str | None = Field(default=None, description="name of the link, as in `clustersim list CLUSTER`")
    factor: Fraction = Field(gt=0, description="speed relative to a healthy part")


class Measured(Record):
    """A published or own measurement of the same run."""

    step_time: Seconds | None = Field(default=None, gt=0, description="seconds per step")
    samples_per_s: float | None = Field(default=None, ge=1e-12, le=1e24, description="samples (sequences, images) per second, whole job")
    tokens_per_s: float | None = Field(default=None, ge=1e-12, le=1e24, description="tokens per second, whole job")
    tokens_per_s_per_accelerator: float | None = Field(default=None, ge=1e-12, le=1e24, description="tokens per second and accelerator")
    model_tflops_per_accelerator: float | None = Field(default=None, ge=1e-12, le=1e24, description="model TFLOP/s per accelerator, as the source counts them")
    trace: str | None = Field(default=None, max_length=4000, description="recorded step (`clustersim import`, NAME.jsonl.gz), relative to the definition, that says the step time and both shares of communication where no key does")
    exposed_communication: Fraction | None = Field(default=None, description="share of the step in which a rank communicates, waiting for others included, and computes nothing; compared by `validate`")
    overlapped_communication: Fraction | None = Field(default=None, description="share of the time of collectives beside which the rank computes; compared by `validate`")
    power: Watts | None = Field(default=None, gt=0, description="mean power of an accelerator while it trains; compared by `validate`")
    power_log: str | None = Field(default=None, max_length=4000, description="log of nvidia-smi or DCGM, relative to the definition, that says it where power does not; idle time before and after is left out")
    source: str = Field(description="where the number was read")
    assumed: str = Field(default="", description="what had to be assumed")
    tolerance: Fraction | None = Field(default=None, gt=0, description="relative error at which the run fails (exit code 1)")


class Simulation(Record):
    """Exact shortcuts and checks of the simulator; none changes a result."""

    fold: Literal["auto", "off"] = Field(default="auto", description="simulate one of each class of equal ranks")
    coalesce: Literal["auto", "off"] = Field(default="auto", description="one event for a chain of operations that shares nothing")
    skip: Literal["auto", "off"] = Field(default="auto", description="advance a repeating pipeline by whole periods")
    foresee: Literal["auto", "off"] = Field(default="auto", description="without effect, so that older files load: a step once was followed without the clock where nothing meets")
    prune: Literal["auto", "off"] = Field(default="auto", description="leave links that can never be full out of rate sharing")
    reuse: Literal["auto", "off"] = Field(default="auto", description="keep clusters, placements and steps for the next experiment of the process")
    limits: Literal["auto", "off"] = Field(default="auto", description="refuse steps of more passes, and end lives with more faults, than minutes and a few gigabytes can simulate")
    certificate: bool = Field(default=False, description="check every rate allocation for max-min fairness")


class Experiment(Record):
    """One run: a cluster, a workload and how they meet."""

    name: Name = Field(default="experiment", description="name in reports; the file name if absent")
    description: str = Field(default="", description="one line for people")
    cluster: Reference[ClusterSpec] = Field(description="cluster by name, path or inline")
    nodes: Count | None = Field(default=None, ge=1, le=200_000, description="overrides the cluster's own size")
    workload: AnyWorkload = Field(description="workload by name, path or inline")
    teacher: AnyWorkload | None = Field(default=None, description="a frozen model whose outputs are learnt (distillation), by name, path or inline: forward alone before each step, on the same boards, cut as the student is; none if absent")
    parallelism: Parallelism = Field(default=Parallelism(), description="how the work is divided")
    training: Training = Field(description="what is trained")
    software: Reference[Software] = Field(default="megatron-core", description="software stack by name, path or inline")
    synchronization: Synchronization | None = Field(default=None, description="how replicas exchange what they learn; they sum gradients in every step, in lock-step, if absent")
    degradations: tuple[Degradation, ...] = Field(default=(), description="slow parts")
    failures: Reference[Failures] | None = Field(default=None, description="what breaks, by name, path or inline; nothing if absent")
    recovery: Recovery = Field(default=Recovery(), description="what happens after a failure")
    checkpoint: Checkpointing | None = Field(default=None, description="how the state of the training is saved; never if absent")
    input: InputPipeline | None = Field(default=None, description="how training data arrives; always in time if absent")
    preparation: Preparation | None = Field(default=None, description="how training data is prepared on host cores, before training or beside it; it is there if absent")
    power: PowerSetting = Field(default=PowerSetting(), description="power limits that the operator sets")
    site: Reference[Site] | None = Field(default=None, description="cooling, grid and electricity price, by name, path or inline")
    prices: Reference[Prices] | None = Field(default=None, description="rental or purchase prices, by name, path or inline")
    simulation: Simulation = Field(default=Simulation(), description="shortcuts and checks")
    measured: Measured | None = Field(default=None, description="a measurement to print beside the prediction")
    seed: int = Field(default=0, ge=0, description="seed of all random streams")

    @property
    def setup(self) -> Setup:
        """All its definitions at hand, with their types; the experiment is resolved.

        Not kept in the record: a copy with changed fields would keep it too.
        """
        return Setup(self)
