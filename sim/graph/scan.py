"""State space layers by chunks (Dao 2024, arXiv 2405.21060, section 6): a short convolution, a scan, a gated norm.

A scan is products inside chunks and a recurrence between them. Kernels as mamba_ssm has them (ops/triton): scores of
a chunk are made once for each group of heads, states are in 32 bit, and scores above the diagonal are left out.

Axes: tokens; inner (heads x head width); mixed (inner and what makes scores and states, conv_dim of mamba_ssm).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from typing_extensions import override

from sim.graph.graph import Operator, Tensor
from sim.graph.operation import Operation
from sim.graph.products import Linear
from sim.graph.work import Writer

WIDE = 4  # bytes of a 32-bit number
TILE = 64  # positions; assumption: as far as a causal kernel computes beyond the diagonal


class Projection(Linear):
    """One matrix, whose columns are handed on apart."""

    __slots__ = ()

    @override
    def apart(self, work: Writer) -> bool:
        return False


class ScanOutput(Linear):
    """The product behind a gated norm, whose result fused kernels make again in the backward pass."""

    __slots__ = ()

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        made_again = work.fused and self.reads[0].width == work.element and self.cast is None
        return () if made_again else super().needs(work)


class CausalConvolution(Operator):
    """A short convolution along the sequence, for each column alone, and its SiLU."""

    __slots__ = ("kernel",)

    def __init__(self, name: str, x: Tensor, kernel: int) -> None:
        column = x.axes[-1]
        weights = (
            Tensor(name, (column, kernel), x.width, "weight"),
            Tensor(f"{name} bias", (column,), x.width, "weight"),
        )
        super().__init__(name, (x,), (Tensor(f"{name} output", x.axes, x.width),), weights)
        self.kernel = kernel

    @override
    def forward(self, work: Writer) -> None:
        """Read, write; eager code has the activation apart."""
        size = work.bytes(self.result)
        work.memory(self.name, (2 if work.fused else 4) * size, 1 if work.fused else 2)

    @override
    def backward(self, work: Writer) -> None:
        """Fused, the result is computed again for the scan; read x and dy, write dx."""
        size = work.bytes(self.result)
        if work.fused:
            work.memory(f"{self.name} again", 2 * size)
        work.memory(f"{self.name} backward", (3 if work.fused else 6) * size, 1 if work.fused else 2)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """Its input; eager code also what the activation reads."""
        x = self.reads[0]
        return self.reads if work.fused else (x, Tensor(f"{self.name} sum", x.axes, x.width))

    @override
    def products(self, work: Writer) -> float:
        return 2.0 * self.kernel * work.elements(self.result)


class Chunks(NamedTuple):
    """The sizes of a scan on one rank."""

    number: int  # of chunks, all sequences together
    length: int  # tokens of each
    heads: int
    width: int  # of a head
    state: int
    groups: int  # heads of a group share scores

    @property
    def states(self) -> int:
        """Elements of the states of all chunks."""
        return self.number * self.heads * self.width * self.state

    @property
    def below_diagonal(self) -> float:
        """Share of the scores of a chunk that are computed."""
        return min(1.0, 0.5 * (1 + TILE / self.length))


class ChunkedScan(Operator):
    """The scan of a layer: scores inside chunks, states of chunks, states passed on, results."""

    __slots__ = ("chunks",)

    def __init__(self, name: str, mixed: Tensor, steps: Tensor, chunks: Chunks) -> None:
        result = Tensor(f"{name} output", (mixed.axes[0], "inner"), mixed.width)
        vectors = tuple(Tensor(f"{name} {what}", steps.axes[-1:], WIDE, "weight") for what in ("decay", "skip", "bias"))
        super().__init__(name, (mixed, steps), (result,), vectors)
        self.chunks = chunks

    @override
    def forward(self, work: Writer) -> None:
        chunks = self.chunks
        self._states(work)
        length, state = chunks.length, chunks.state
        traffic = work.bytes(self.reads[0]) + work.bytes(self.result) + WIDE * (chunks.states + self._scores())
        inside = length * chunks.below_diagonal
        self._product(work, "result", (length, chunks.width, round(inside) + state), chunks.heads, traffic)

    @override
    def backward(self, work: Writer) -> None:
        """Scores and states again, then the gradients of each product; those of scores pass once more for decays."""
        chunks, (mixed, _), y = self.chunks, self.reads, self.result
        self._states(work, " again")
        length, width, state, heads = chunks.length, chunks.width, chunks.state, chunks.heads
        read, states, inside = (
            work.bytes(mixed) + work.bytes(y),
            WIDE * chunks.states,
            round(length * chunks.below_diagonal),
        )
        self._product(work, "state gradient", (width, state, length), heads, work.bytes(y) + states)
        work.memory(f"{self.name} states backward", 3 * states)
        self._product(work, "input gradient", (length, width, inside + state), heads, read + work.bytes(y) + states)
        for name in ("key gradient", "query gradient"):
            self._product(work, name, (length, state, width), heads, work.bytes(y) + states)
        for name in ("score gradient", "decay gradient"):
            self._product(work, name, (length, inside, width), heads, read + WIDE * self._scores())
        for name in ("key of scores", "query of scores"):
            self._product(work, name, (length, state, length), chunks.groups, 2 * WIDE * self._scores())

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """Steps; what the convolution made where that is not computed again."""
        return self.reads[1:] if work.fused else self.reads

    @override
    def products(self, work: Writer) -> float:
        """Scores for each group; states, results of states and of scores for each head."""
        chunks = self.chunks
        each = chunks.length * chunks.state * chunks.groups
        each += chunks.heads * chunks.width * (2 * chunks.state + chunks.length)
        return 2.0 * chunks.number * chunks.length * each

    def _states(self, work: Writer, again: str = "") -> None:
        """Steps summed up, scores, states of chunks, and states passed from chunk to chunk."""
        chunks, (mixed, steps) = self.chunks, self.reads
        work.memory(f"{self.name} steps{again}", work.bytes(steps) + 2 * WIDE * work.elements(steps))
        length, state = chunks.length, chunks.state
        read = 2 * work.element * chunks.number * length * chunks.groups * state
        self._product(work, f"scores{again}", (length, length, state), chunks.groups, read + WIDE * self._scores())
        moved = work.bytes(mixed) + WIDE * chunks.states
        self._product(work, f"states{again}", (chunks.width, state, length), chunks.heads, moved)
        work.memory(f"{self.name} state passing{again}", 2 * WIDE * chunks.states)

    def _scores(self) -> int:
        return self.chunks.number * self.chunks.groups * self.chunks.length**2

    def _product(self, work: Writer, name: str, shape: tuple[int, int, int], each: int, traffic: float) -> None:
        """A product for `each` head or group of every chunk."""
        (m, n, k), batch = shape, self.chunks.number * each
        flops = 2.0 * batch * m * n * k
        work.operations.append(
            Operation(
                f"{self.name} {name}", "matmul", flops, float(traffic), work.precision, batch, m, n, k, phase=work.phase
            )
        )


class GatedNorm(Operator):
    """RMS norm of the product of `x` and an activated gate."""

    __slots__ = ()

    def __init__(self, name: str, x: Tensor, gate: Tensor) -> None:
        weight = Tensor(name, x.axes[-1:], x.width, "weight")
        super().__init__(name, (x, gate), (Tensor(f"{name} output", x.axes, x.width),), (weight,))

    @override
    def forward(self, work: Writer) -> None:
        """Read both, write one; eager code activates, multiplies and norms one after the other."""
        work.memory(self.name, (3 if work.fused else 2 + 3 + 2) * work.bytes(self.result), 1 if work.fused else 3)

    @override
    def backward(self, work: Writer) -> None:
        """Read both and dy, write two gradients and the result again; eager code has gradients of each of three."""
        passes, kernels = (6, 1) if work.fused else (3 + 5 + 5, 4)
        work.memory(f"{self.name} backward", passes * work.bytes(self.result), kernels)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """Both; eager code also the activated gate and the product."""
        if work.fused:
            return self.reads
        x = self.reads[0]
        return (*self.reads, *(Tensor(f"{self.name} {what}", x.axes, x.width) for what in ("gate", "product")))
