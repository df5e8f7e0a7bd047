"""From a graph as a family writes it to what everybody else asks of it.

Passes run in a fixed order: columns that are pruned; the stream under autocast; kernels of attention; tensor
parallelism; 8-bit operands, so that gathers carry 1 B; adapters. Then recomputation says what runs again, and the
backward pass goes through the operators in reverse.
"""

from __future__ import annotations

from sim.graph.adapters import Adapter
from sim.graph.graph import Graph, Operator
from sim.graph.operation import Block, Operation, Phase, Shard
from sim.graph.work import Writer
from sim.transforms.adapters import adapt
from sim.transforms.attention_kernel import choose_attention_kernels
from sim.transforms.autocast import widen_the_stream
from sim.transforms.precision import cast_operands
from sim.transforms.pruning import drop_columns
from sim.transforms.recompute import kept, repeated
from sim.transforms.tensor import split_over_tensor_ranks

Operations = tuple[Operation, ...]


def transform(graph: Graph, shard: Shard) -> Graph:
    """`graph` as one rank runs it under `shard`: changed, and handed back."""
    drop_columns(graph, shard)
    widen_the_stream(graph, shard)
    choose_attention_kernels(graph, shard)
    split_over_tensor_ranks(graph, shard)
    cast_operands(graph, shard)
    adapt(graph, shard)
    return graph


def block_of(graph: Graph, shard: Shard, gradient_bytes: int = 4) -> Block:
    """Operations of a transformed graph; `gradient_bytes` [B] per element of the accumulated weight gradient."""
    work = Writer(graph, shard, gradient_bytes)
    gathered, again = (each * unit_parameters(graph) for each in (shard.gather_copy, shard.gather_copy_again))
    reduced = shard.reduce_copy * unit_parameters(graph)
    return Block(
        name=graph.name,
        forward=beside_another(_forward(work, Phase.FORWARD, graph.operators, gathered), shard),
        recompute=_forward(work, Phase.RECOMPUTE, repeated(work), again) if graph.repeated else (),
        backward=beside_another(_backward(work, reduced), shard),
        model_flops=model_flops(work),
    )


def beside_another(operations: Operations, shard: Shard) -> Operations:
    """Exchanges of tokens beside the computation of another microbatch, which stands where that of this one does.

    Megatron Core (combined_1f1b) pairs the passes of two microbatches layer by layer: the way back of a gradient or a
    token with attention, the way out with the experts. Passes at the ends of a step, which have no other beside them,
    count as all do.
    """
    at = [number for number, each in enumerate(operations) if each.group == "expert"]
    if shard.experts.overlap != "microbatch" or len(at) != 2:
        return operations
    first, second = at
    before, between, after = operations[:first], operations[first + 1 : second], operations[second + 1 :]
    if operations[first].phase.differentiates:  # the gradient of the result, experts, that of the input, attention
        parts = [(operations[first], (*before, *between)), (operations[second], after)]
    else:
        parts = [(operations[second], before), (operations[first], (*between, *after))]
    return tuple(each for issued, beside in parts for each in (issued._replace(hidden_by=len(beside)), *beside))


def model_flops(work: Writer) -> float:
    """FLOPs of both passes of one microbatch: matrix products with full (not causal) attention, as Megatron counts.

    Narayanan 2021, appendix; Korthikanti 2022, appendix A. Two products backward for each forward one, or one for a
    frozen matrix; nothing for recomputation.
    """
    return sum(each.trained_passes(work) * each.products(work) for each in work.graph.operators)


def repeated_flops(work: Writer) -> float:
    """FLOPs of what is computed again, counted alike."""
    return sum(each.products(work) for each in repeated(work))


def kept_bytes(work: Writer) -> int:
    """What the graph keeps from its forward to its backward pass [B]."""
    return sum(map(work.bytes, kept(work)))


def trained_parameters(work: Writer) -> int:
    """Parameters with gradients on one rank: all, or those of adapters."""
    if not work.frozen:
        return work.graph.trainable()
    return sum(each.parameters(work) for each in work.graph.operators if isinstance(each, Adapter))


def _forward(work: Writer, phase: Phase, operators: list[Operator], copied: float) -> Operations:
    work.operations, work.phase = [], phase
    _copy_unit(work, "weights", copied)
    for operator in operators:
        operator.forward(work)
    return tuple(work.operations)


def _backward(work: Writer, copied: float) -> Operations:
    """Operators in reverse; a tensor that several read gets the sum of their gradients.

    Frozen operators with nothing trained before them are left out.
    """
    work.operations, work.phase = [], Phase.INPUT_GRADIENT
    graph = work.graph
    if not (work.frozen and graph.source.role == "index"):
        first: dict[int, Operator] = {}
        for operator in reversed(graph.operators):
            operator.backward(work)
            for tensor in () if operator.in_place else operator.reads:
                known = first.setdefault(id(tensor), operator)
                if known is not operator:
                    work.memory(f"{known.name} gradient", 3 * work.bytes(tensor))
    _copy_unit(work, "gradients", copied)
    return tuple(work.operations)


def _copy_unit(work: Writer, what: str, traffic: float) -> None:
    """Copies between the buffer of a collective and the tensors of a sharded unit (ZeRO-3), or casts of autocast."""
    if traffic:
        work.memory(f"{what} copied", traffic, _matrices(work.graph) if work.shard.casts_weights else 1)


def _matrices(graph: Graph) -> int:
    """Matrices of a unit, each of which autocast casts by a kernel."""
    return sum(len(weight.axes) > 1 for weight in graph.weights())


def unit_parameters(graph: Graph) -> int:
    """Parameters that a sharded unit copies: all of a layer, the table of an end."""
    tables = (each for each in graph.weights() if graph.repeated or graph.is_split(each.axes[0]))
    return sum(map(graph.elements, tables))
