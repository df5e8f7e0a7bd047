"""The attention core of one rank: scores, softmax, dropout and context, or one fused kernel.

Context parallelism is ring attention with zig-zag halves, so every rank has the same causal
work. Keys and values travel as one all-gather over the context group, which moves what the ring
moves; all but the last block of attention runs beside it. Or ranks exchange positions for heads before attention and
back behind it (Ulysses, Jacobs 2023, arXiv 2309.14509); or both, ranks of a ring being groups that do (Fang 2024, arXiv
2405.07719).

Axes: batch (sequences), heads, queries (positions whose rows this rank owns), keys (positions attended to: the
whole sequence, or a document of it), width (of a head; value width where values differ), tokens (batch x queries), and
the columns of each tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from typing_extensions import override

from sim.graph.graph import Axis, Operator, Step, Tensor
from sim.graph.operation import Operation
from sim.graph.work import Writer

CORE = "core"  # the region that selective recomputation repeats
FLASH_TILE = 128  # positions; assumption: a causal kernel computes the tiles on the diagonal in full


class Merge(NamedTuple):
    """Bytes per element of the queries and kernels for each block of ring attention after the first."""

    forward: int
    backward: int
    kernels: int


# One term per kernel as read + write (PyTorch, distributed/tensor/experimental/_attention.py, _SDPAMerger and
# _templated_ring_attention_backward). Keys and values count as wide as the queries.
MERGES = {
    "fused": Merge(0, 0, 0),
    # keys and values into one buffer; cast, subtract, scale, subtract; backward: the same; add to 32-bit gradients of
    # q, k and v; k and v into one buffer. The number of kernels is an assumption
    "separate": Merge(2 * 4 + 6 + 12 + 8 + 12, 2 * 4 + 10 + 2 * 10 + 2 * 8, 8),
    # read block and sum, write the sum; backward: add to 32-bit gradients of q, and of k and v as they go on
    "compiled": Merge(10, 10 + 2 * 10, 3),
}
# Read and write: into rows by receiver before an all-to-all, back into rows of heads or positions behind it (DeepSpeed,
# sequence/layer.py, single_all_to_all).
EXCHANGE_COPIES = 2
GRADIENT = 4  # bytes; gradients of keys and values are added up and sent in 32 bit
# A call of Philox with 7 rounds of 10 integer operations draws 16 numbers of 8 bit; comparing and selecting take 4 more
# (flash-attention, csrc/flash_attn/src/philox.cuh and dropout.h). Integer operations count as in `Work.memory`.
FUSED_RANDOM_FLOPS = 2 * (7 * 10 / 16 + 4)
FLASH_BACKWARD = 2.5  # five products, scores computed again, against two forward (Dao 2023, section 3)


class AttentionSpan(NamedTuple):
    """Axes of the positions that attend and are attended to, and how: causally, with a `bias` for each score."""

    queries: str = "queries"
    keys: str = "keys"
    causal: bool = True
    bias: bool = False


CAUSAL = AttentionSpan()


class Attention(Operator):
    """Attention of queries, keys and values, before kernels are chosen for it: one `fused`, or several."""

    __slots__ = ("dropout", "fused", "span")

    def __init__(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        fused: bool,
        dropout: bool,
        span: AttentionSpan = CAUSAL,
        output: Axis | None = None,
    ) -> None:
        """`output`: columns of the result, where values are not as wide as queries."""
        axes = queries.axes if output is None else (*queries.axes[:-1], output)
        output_of = Tensor("attention output", axes, queries.width)
        super().__init__("attention", (queries, keys, values), (output_of,), region=CORE)
        self.fused, self.dropout, self.span = fused, dropout, span


class FlashAttention(Operator):
    """One kernel: scores never reach device memory. Selective recomputation is what it does inside anyway."""

    __slots__ = ("dropout", "span")

    def __init__(
        self, reads: tuple[Tensor, ...], output: Tensor, *, dropout: bool = False, span: AttentionSpan = CAUSAL
    ) -> None:
        normaliser = Tensor("normaliser", (output.axes[0], "heads"), 4)
        super().__init__("attention", reads, (output, normaliser), region=CORE)
        self.dropout, self.span = dropout, span

    @override
    def forward(self, work: Writer) -> None:
        """Reads q, k, v; writes the output and a 32-bit normaliser per row and head."""
        traffic = sum(map(work.bytes, (*self.reads, *self.writes))) + self._bias(work, work.element)
        exchange(work, self.name, self.reads)
        kernel = self._kernel(work, self.name, 1.0, traffic, 1)
        self._ring(work, kernel, work.element, MERGES[work.shard.ring_attention].forward)
        self._drop(work, self.name)
        exchange(work, f"{self.name} output", (self.result,))

    @override
    def backward(self, work: Writer) -> None:
        """Reads q, k, v, output and its gradient; writes three gradients, that of q through 32 bit."""
        queries, keys, values = self.reads
        read = (*self.reads, *self.writes, self.result)
        traffic = sum(map(work.bytes, (*read, queries, keys, values))) + 8 * work.elements(queries)
        traffic += self._bias(work, work.element + 2 * GRADIENT)
        exchange(work, f"{self.name} output backward", (self.result,))
        kernel = self._kernel(work, f"{self.name} backward", FLASH_BACKWARD, traffic, 3)
        if work.shard.ring_attention == "fused":
            self._ring(work, kernel, 2 * work.element, 0)
        else:
            self._ring(work, kernel, work.element + GRADIENT, MERGES[work.shard.ring_attention].backward)
            self._last_turn(work)
        self._drop(work, f"{self.name} backward")
        exchange(work, f"{self.name} backward", self.reads)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """Operands and output; the normaliser where it is not computed again."""
        return (*self.reads, self.result) if work.shard.recomputes_core else (*self.reads, *self.writes)

    @override
    def products(self, work: Writer) -> float:
        sizes = work.graph.sizes
        return 2.0 * scores(work, self.span) * (sizes["width"] + sizes.get("value width", sizes["width"]))

    def _bias(self, work: Writer, moved: int) -> int:
        """Traffic of a bias that all samples share [B]; the gradient is added to in 32 bit."""
        sizes, span = work.graph.sizes, self.span
        return span.bias * moved * sizes["heads"] * sizes[span.queries] * sizes[span.keys]

    def _computed(self, work: Writer) -> float:
        """Part of the full score matrix that the kernel computes."""
        return causal_share(work.graph.sizes[self.span.keys]) if self.span.causal else 1.0

    def _drop(self, work: Writer, name: str) -> None:
        """Numbers are drawn for each score, and drawn again backward; the tensor cores wait meanwhile."""
        if self.dropout:
            drawn = scores(work, self.span) * self._computed(work)
            work.memory(f"{name} dropout", 0.0, 0, random=drawn, each=FUSED_RANDOM_FLOPS)

    def _kernel(self, work: Writer, name: str, factor: float, traffic: float, kernels: int) -> Operation:
        sizes, span = work.graph.sizes, self.span
        return Operation(
            name,
            "attention",
            self.products(work) * self._computed(work) * factor,
            float(traffic),
            work.precision,
            sizes["batch"] * sizes["heads"] // work.shard.ulysses,
            sizes[span.queries] * work.shard.ulysses,
            sizes[span.keys],
            sizes["width"],
            kernels,
            masked=1.0 if span.causal else 0.0,
            seen=0.5 if span.causal else 1.0,
            phase=work.phase,
        )

    def _ring(self, work: Writer, whole: Operation, per_element: int, merge: int) -> None:
        """The kernel once per block of the ring: the last waits for the exchange. Only the own block has a mask.

        Separate kernels add each block after the first to the result: `merge` bytes per element of the queries.
        A compiler waits for each collective where it is issued (PyTorch, _functional_collectives.py,
        _maybe_wrap_tensor).
        """
        ranks, how = work.shard.ring, work.shard.ring_attention
        if ranks == 1:
            work.operations.append(whole)
            return
        gather_keys(work, whole.name, per_element * key_elements(work, self.reads[1]), 0 if how == "compiled" else 1)
        work.operations.append(_part(whole, ranks - 1, ranks, masked=1 / (ranks - 1)))
        last = _part(whole, 1, ranks, masked=0.0)
        work.operations.append(last._replace(name=f"{whole.name} last block"))
        if how != "fused":
            traffic = (ranks - 1) * merge * work.elements(self.reads[0])
            work.memory(f"{whole.name} merge", traffic, MERGES[how].kernels * (ranks - 1))

    def _last_turn(self, work: Writer) -> None:
        """Gradients of keys and values go home when the last block has been added: one more turn, beside nothing.

        An all-gather moves the share of one rank n-1 times; this moves it once.
        """
        ranks = work.shard.ring
        if ranks > 1:
            size = GRADIENT * key_elements(work, self.reads[1]) / (ranks - 1)
            work.collective(f"{self.name} backward last turn", "all_gather", size, "context")


class _CoreProduct(Operator):
    """A product for each head, of two tensors that its gradients are made of."""

    __slots__ = ("span",)

    span: AttentionSpan

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return self.reads

    @override
    def products(self, work: Writer) -> float:
        return 2.0 * scores(work, self.span) * work.graph.sizes["width"]


class Scores(_CoreProduct):
    """Products of queries and keys for each head."""

    __slots__ = ()

    def __init__(self, queries: Tensor, keys: Tensor, span: AttentionSpan = CAUSAL) -> None:
        result = Tensor("scores", ("batch", "heads", span.queries, span.keys), queries.width)
        super().__init__("scores", (queries, keys), (result,), region=CORE)
        self.span = span

    @override
    def forward(self, work: Writer) -> None:
        """Keys and values of the whole sequence arrive before."""
        gather_keys(work, "attention", work.element * key_elements(work, self.reads[1]))
        batched(work, self.name, self.span.queries, self.span.keys, "width")

    @override
    def backward(self, work: Writer) -> None:
        batched(work, f"{self.name} query gradient", self.span.queries, "width", self.span.keys)
        batched(work, f"{self.name} key gradient", self.span.keys, "width", self.span.queries)


class ScoreBias(Operator):
    """Adds a bias that all samples share to scores; its gradient is their sum over samples, added up in 32 bit."""

    __slots__ = ()

    def __init__(self, x: Tensor) -> None:
        super().__init__("score bias", (x,), (Tensor("biased scores", x.axes, x.width),), region=CORE)

    @override
    def forward(self, work: Writer) -> None:
        """Read scores and bias, write the sum; a fused softmax does it as it reads."""
        each = work.elements(self.result) // work.graph.sizes["batch"]
        work.memory(self.name, (0 if work.fused else 2 * work.bytes(self.result)) + work.element * each)

    @override
    def backward(self, work: Writer) -> None:
        """Read the gradient of the scores, add to that of the bias."""
        each = work.elements(self.result) // work.graph.sizes["batch"]
        work.memory(f"{self.name} backward", work.bytes(self.result) + 2 * GRADIENT * each)


class Softmax(Operator):
    """Scale, mask and softmax of scores: one kernel, or three."""

    __slots__ = ()

    def __init__(self, x: Tensor) -> None:
        super().__init__("softmax", (x,), (Tensor("probabilities", x.axes, x.width),), region=CORE)

    @override
    def forward(self, work: Writer) -> None:
        self._pass(work, self.name, 2)

    @override
    def backward(self, work: Writer) -> None:
        """Reads dy and y and writes dx."""
        self._pass(work, f"{self.name} backward", 3)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return self.writes

    def _pass(self, work: Writer, name: str, passes: int) -> None:
        """Kernels apart scale and mask too; autocast has softmax in 32 bit, so eager code casts to it and back."""
        apart, cast = (0, 0) if work.fused else (2 + 2, work.shard.autocast)
        traffic = (passes + apart) * work.element + cast * (2 * (2 + 4) + 2 * passes)
        work.memory(name, traffic * work.elements(self.result), 1 if work.fused else 3 + 2 * cast)


class Context(_CoreProduct):
    """Products of probabilities and values for each head."""

    __slots__ = ("keys",)

    def __init__(
        self, probabilities: Tensor, keys: Tensor, values: Tensor, output: Tensor, span: AttentionSpan = CAUSAL
    ) -> None:
        super().__init__("context", (probabilities, values), (output,), region=CORE)
        self.keys, self.span = keys, span

    @override
    def forward(self, work: Writer) -> None:
        batched(work, self.name, self.span.queries, "width", self.span.keys)

    @override
    def backward(self, work: Writer) -> None:
        """Keys and values arrive again before, as the first backward pass of the core needs them."""
        gather_keys(work, "attention backward", 2 * work.element * key_elements(work, self.keys))
        batched(work, f"{self.name} score gradient", self.span.queries, self.span.keys, "width")
        batched(work, f"{self.name} value gradient", self.span.keys, "width", self.span.queries)


class _Copying(Operator):
    """Moves its input, forward and back alike; what it makes takes the place of that."""

    __slots__ = ()

    in_place = True

    @override
    def forward(self, work: Writer) -> None:
        self._copy(work, self.name)

    @override
    def backward(self, work: Writer) -> None:
        self._copy(work, f"{self.name} backward")

    def _copy(self, work: Writer, name: str) -> None:
        raise NotImplementedError


class LayoutCopy(_Copying):
    """Columns into heads, or back, by a copy; fused attention reads and writes columns as they are."""

    __slots__ = ()

    @override
    def _copy(self, work: Writer, name: str) -> None:
        work.memory(name, 2 * work.element * sum(map(work.elements, self.reads)))


class KeyRepetition(_Copying):
    """Keys and values from their own heads to every query head; backward, gradients summed the other way."""

    __slots__ = ()

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        return tuple(Step((x,), (y,), ()) for x, y in zip(self.reads, self.writes, strict=True))

    @override
    def _copy(self, work: Writer, name: str) -> None:
        work.memory(name, work.element * sum(map(work.elements, (*self.reads, *self.writes))), 2)


def causal_share(keys: int) -> float:
    """Part of the full score matrix of `keys` columns that a causal fused kernel computes."""
    return min(1.0, 0.5 * (1 + FLASH_TILE / keys))


def scores(work: Writer, span: AttentionSpan = CAUSAL) -> float:
    """Elements of the attention scores of this rank."""
    sizes = work.graph.sizes
    return float(sizes["batch"] * sizes["heads"] * sizes[span.queries] * sizes[span.keys])


def key_elements(work: Writer, keys: Tensor) -> float:
    """Elements of the keys and values of the whole sequence, for the heads of the rank, as wide as it reads `keys`."""
    sizes = work.graph.sizes
    return 2.0 * sizes["batch"] * sizes["keys"] * work.graph.count(keys.axes[-1]) / work.shard.ulysses


def gather_keys(work: Writer, name: str, message: float, hidden_by: int = 0) -> None:
    """Keys and values of the whole sequence, `message` bytes as held after an all-gather."""
    if work.shard.ring > 1:
        work.collective(f"{name} ring exchange", "all_gather", message, "context", hidden_by)


def exchange(work: Writer, name: str, tensors: Iterable[Tensor]) -> None:
    """Positions for heads, or back: each tensor by an all-to-all of its own, with a copy before and one behind."""
    if work.shard.ulysses == 1:
        return
    for tensor in tensors:
        size = float(work.bytes(tensor))
        work.memory(f"{name} exchange copies", 2 * EXCHANGE_COPIES * size, 2)
        work.collective(f"{name} exchange", "all_to_all", size, "ulysses")


def batched(work: Writer, name: str, m: str, n: str, k: str) -> None:
    """A product for each sequence and head, of the shape of three axes."""
    sizes = work.graph.sizes
    work.product(name, (sizes[m], sizes[n], sizes[k]), sizes["batch"] * sizes["heads"])


def _part(whole: Operation, blocks: int, ranks: int, masked: float) -> Operation:
    """`blocks` of `ranks` blocks; queries and output cross memory again for each block."""
    return whole._replace(
        flops=whole.flops * blocks / ranks,
        bytes_moved=whole.bytes_moved * blocks,
        n=whole.n * blocks // ranks,
        kernels=whole.kernels * blocks,
        parts=blocks,
        masked=masked,
    )
