"""A layer of experts on one rank: top-k, the way of tokens to their experts and back, grouped products.

Axes: routed (all experts), chosen (those of a token), experts (those of this rank), own (tokens of this rank), sent
(copies of them, one for each expert that they chose), received and dispatched (rows that the fullest rank got from all,
before and after each expert has its own), expert ffn.

Stages as in Megatron Core (core/transformer/moe/README.md): router, top-k, permutation, dispatch, sort by expert,
grouped products, and back. Where one copy goes to each rank, tokens leave as they are and are copied where they arrive.
"""

from __future__ import annotations

from collections.abc import Iterable

from typing_extensions import override

from sim.graph.graph import Axis, Operator, Tensor
from sim.graph.operation import CollectiveKind, Operation, Phase, TokenRouting
from sim.graph.products import cast_to_8_bit, hide
from sim.graph.work import Writer

SCALED = 1 + 4 / 128  # bytes of an element in 8 bit, with a 32-bit scale for each 128 (DeepSeek-AI 2024, 3.3.2)
LABEL = 4 + 4  # bytes of the number and the weight of an expert, which go along with a token (DeepEP, buffer.py)
ROW_BLOCK = 16  # rows of an expert are padded to blocks of so many (Megatron Core, moe_utils.py)
KERNELS_IN_8_BIT = 3  # of a product apart: itself, and one for the scales of each operand (TE, extensions/gemm.cpp)
SCORE = 4  # bytes; scores of experts are in 32 bit
SCORE_PASSES = 6  # assumption: softmax, top-k, map, counts and balancing loss read or write all scores so often


class TopK(Operator):
    """From scores of all experts to a map of tokens: softmax or sigmoid, limits of groups, top-k, balancing."""

    __slots__ = ()

    def __init__(self, scores: Tensor) -> None:
        chosen = Tensor("chosen weights", (*scores.axes[:-1], "chosen"), SCORE)
        super().__init__("top-k", (scores,), (chosen,))

    @override
    def forward(self, work: Writer) -> None:
        """Many small kernels; the host may have to wait for their result."""
        kernels = work.shard.experts
        self._pass(work, self.name, 1.0, kernels.router_kernels)
        if kernels.wait and work.shard.expert > 1:
            work.operations.append(Operation("counts to the host", "elementwise", waits=kernels.wait, phase=work.phase))

    @override
    def backward(self, work: Writer) -> None:
        """Gradients of the weights of the chosen and of the balancing loss: half of the kernels."""
        self._pass(work, f"{self.name} backward", 0.5, -(-work.shard.experts.router_kernels // 2))

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return (Tensor("probabilities", self.reads[0].axes, SCORE), self.result)

    def _pass(self, work: Writer, name: str, share: float, kernels: int) -> None:
        work.memory(name, share * SCORE_PASSES * SCORE * work.elements(self.reads[0]), kernels)


class Rearrangement(Operator):
    """Rows copied to other places: tokens to a row for each expert, sorted by it, or summed up again by weight.

    Both ways read one tensor and write the other. Separate kernels move the longer one once more: to index it, and to
    multiply it.
    """

    __slots__ = ()

    def __init__(self, name: str, x: Tensor, rows: Axis) -> None:
        super().__init__(name, (x,), (Tensor(f"{name} output", (rows, *x.axes[1:]), x.width),))

    @override
    def forward(self, work: Writer) -> None:
        self._move(work, self.name)

    @override
    def backward(self, work: Writer) -> None:
        self._move(work, f"{self.name} backward")

    def _move(self, work: Writer, name: str) -> None:
        sizes = work.bytes(self.reads[0]), work.bytes(self.result)
        fused = work.shard.experts.fused_permutation
        work.memory(name, sum(sizes) + (0 if fused else 2 * max(sizes)), 1 if fused else 3)


class TokenExchange(Operator):
    """Tokens to the ranks of their experts, or, where it does not `leave`, back to their own.

    It is waited for at its `Arrival`. Gradients go the other way: they start at the arrival, and are waited for here.
    """

    __slots__ = ("leaves", "routing")

    def __init__(self, name: str, x: Tensor, rows: Axis, routing: TokenRouting, *, leaves: bool) -> None:
        super().__init__(name, (x,), (Tensor(f"{name} output", (rows, *x.axes[1:]), x.width),))
        self.routing, self.leaves = routing, leaves

    @override
    def forward(self, work: Writer) -> None:
        self.start(work, leaves=self.leaves)

    @override
    def backward(self, work: Writer) -> None:
        self.end(work, leaves=not self.leaves)

    @property
    def _columns(self) -> Axis:
        return self.result.axes[-1]

    def start(self, work: Writer, *, leaves: bool) -> None:
        """Ranks that share experts sum what they made, then tokens go over the expert group; gradients in 16 bit."""
        if not leaves:
            self._among_sharers(work, leaves=False)
        if work.shard.expert == 1:
            return
        kernels, narrow = work.shard.experts, work.phase is not Phase.INPUT_GRADIENT
        width = SCALED if kernels.dispatch_8_bit and leaves and narrow else work.element
        row = (work.graph.count(self._columns) * width + (LABEL if leaves else 0)) * self.routing.imbalance
        name = f"{self.name}{'' if narrow else ' of gradients'}"
        if kernels.dispatcher == "all_to_all":
            work.collective(name, "all_to_all", work.graph.count("sent") * row, "expert")
            return
        if not leaves:
            self._copy(work, name)
        work.collective(name, "all_to_all", work.graph.count("own") * row, "expert")
        work.operations[-1] = work.operations[-1]._replace(routing=self.routing)

    def end(self, work: Writer, *, leaves: bool) -> None:
        """What was written since the start ran beside it; ranks that share experts gather what each of them got."""
        if work.shard.expert > 1:
            hide(work, max(at for at, each in enumerate(work.operations) if each.group == "expert"))
            if leaves and work.shard.experts.dispatcher == "deduplicated":
                self._copy(work, self.name)
        if leaves:
            self._among_sharers(work, leaves=True)

    def _copy(self, work: Writer, name: str) -> None:
        """What arrived, out of the buffer of the kernels, or what leaves, into it."""
        received = work.graph.count("received") * work.graph.count(self._columns)
        work.memory(f"{name} copy", 2 * work.element * received)

    def _among_sharers(self, work: Writer, *, leaves: bool) -> None:
        if work.shard.expert_tensor > 1:
            kind: CollectiveKind = "all_gather" if leaves else "reduce_scatter"
            message = work.graph.count("dispatched") * work.graph.count(self._columns) * work.element
            work.collective(f"{self.name} among sharers", kind, message, "expert_tensor")


class Arrival(Operator):
    """Where the result of an exchange is waited for, and its gradient starts."""

    __slots__ = ("exchange",)

    in_place = True

    def __init__(self, exchange: TokenExchange) -> None:
        super().__init__(f"{exchange.name} arrival", (exchange.result,), ())
        self.exchange = exchange

    @override
    def forward(self, work: Writer) -> None:
        self.exchange.end(work, leaves=self.exchange.leaves)

    @override
    def backward(self, work: Writer) -> None:
        self.exchange.start(work, leaves=not self.exchange.leaves)


class ExpertBias(Operator):
    """The bias of each expert times the weight of each token, added to what it made.

    By stacks that run experts apart an expert at a time in 32 bit: product, sum, joined, cast back (Megatron Core,
    moe/experts.py, _apply_bias).
    """

    __slots__ = ()

    in_place = True

    def __init__(self, name: str, x: Tensor) -> None:
        super().__init__(name, (x,), ())

    @override
    def forward(self, work: Writer) -> None:
        """Write the product, read and write the sum, read and write it joined, cast."""
        self._pass(work, self.name, 4 + (2 + 4 + 4) + 2 * 4 + (4 + 2))

    @override
    def backward(self, work: Writer) -> None:
        """Cast the gradient, take it apart, multiply it by weights, sum that over rows."""
        self._pass(work, f"{self.name} backward", (2 + 4) + 2 * 4 + 2 * 4 + 4)

    def _pass(self, work: Writer, name: str, width: int) -> None:
        if not work.shard.experts.fused_products:
            kernels = 2 * work.graph.count("experts") + 2
            work.memory(name, width * work.elements(self.reads[0]), kernels)


class GroupedLinear(Operator):
    """A matrix for each expert of the rank: (rows of it x inputs) by (inputs x columns), the same rows for all experts.

    Few rows leave tiles and waves unfilled, and weights are read in each pass. `cast`: operands are in 8 bit.
    """

    __slots__ = ("cast", "columns", "inputs")

    def __init__(self, name: str, x: Tensor, columns: tuple[Axis, ...], *, bias: bool) -> None:
        inputs = x.axes[-1]
        matrices = tuple(Tensor(name, ("experts", column, inputs), x.width, "weight") for column in columns)
        biases = tuple(Tensor(f"{name} bias", ("experts", column), x.width, "weight") for column in columns)
        results = tuple(Tensor(f"{name} output", (*x.axes[:-1], column), x.width) for column in columns)
        super().__init__(name, (x,), results, matrices + (biases if bias else ()))
        self.inputs, self.columns, self.cast = inputs, columns, False

    @override
    def forward(self, work: Writer) -> None:
        """Multiply, in 8 bit after a cast."""
        rows, inputs, outputs = self._shape(work)
        self._cast(work, "input", inputs)
        self._multiply(work, self.name, (rows, outputs, inputs))

    @override
    def backward(self, work: Writer) -> None:
        """Gradients of the input, then of the weights, added to what earlier microbatches left."""
        rows, inputs, outputs = self._shape(work)
        self._cast(work, "gradient", outputs)
        self._multiply(work, f"{self.name} input gradient", (rows, inputs, outputs))
        if work.frozen:
            return
        before, work.phase = work.phase, Phase.WEIGHT_GRADIENT
        fused = work.shard.fused_accumulation
        self._multiply(work, f"{self.name} weight gradient", (outputs, inputs, rows), accumulates=fused)
        if not fused:
            added = sum(map(work.elements, self.weights)) * (work.element + 2 * work.gradient_bytes)
            work.memory(f"{self.name} gradient accumulation", added)
        work.phase = before

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """Its input, as it was cast if that was with a scale known before."""
        if work.frozen:
            return ()
        x = self.reads[0]
        narrow = self.cast and work.shard.fp8_scaling != "dynamic"
        return (Tensor(f"{x.name} in 8 bit", x.axes, 1),) if narrow else self.reads

    @override
    def products(self, work: Writer) -> float:
        graph = work.graph
        return 2.0 * graph.rows(self.reads[0]) * graph.count(self.inputs) * sum(map(graph.count, self.columns))

    @override
    def trained_passes(self, work: Writer) -> int:
        return 2 if work.frozen else 3

    def _shape(self, work: Writer) -> tuple[int, int, int]:
        """Rows of each expert, padded; inputs; columns of all matrices side by side."""
        graph = work.graph
        rows = -(-graph.rows(self.reads[0]) // graph.count("experts"))
        padded = -(-rows // ROW_BLOCK) * ROW_BLOCK
        return padded, graph.count(self.inputs), sum(map(graph.count, self.columns))

    def _multiply(self, work: Writer, name: str, shape: tuple[int, int, int], *, accumulates: bool = False) -> None:
        experts = work.graph.count("experts")
        precision = "fp8" if self.cast else None
        work.product(name, shape, experts, precision=precision, accumulates=accumulates)
        if not work.shard.experts.fused_products:
            kernels = experts * (KERNELS_IN_8_BIT if self.cast else 1)
            work.operations[-1] = work.operations[-1]._replace(kernels=kernels)

    def _cast(self, work: Writer, what: str, columns: int) -> None:
        if self.cast:
            elements = work.graph.rows(self.reads[0]) * columns
            cast_to_8_bit(work, f"{self.name} {what}", elements, transposed=True)
            if not work.shard.experts.fused_products:
                casts = work.operations[-1].kernels * work.graph.count("experts")
                work.operations[-1] = work.operations[-1]._replace(kernels=casts)
