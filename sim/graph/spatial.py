"""What diffusion networks do over the places of an image beside convolutions: attention and conditioning.

Rombach 2021, Latent Diffusion (arXiv 2112.10752); tensors of tokens lie samples, places, columns.
"""

from __future__ import annotations

from collections.abc import Iterable

from typing_extensions import override

from sim.graph.graph import Operator, Step, Tensor
from sim.graph.operation import Operation
from sim.graph.work import Writer

BACKWARD = 2.5  # five products, scores computed again, against two forward (Dao 2023, section 3)


class PlacesAttention(Operator):
    """Fused attention of every place to every key, without a mask."""

    __slots__ = ("width",)

    def __init__(self, name: str, queries: Tensor, keys: Tensor, values: Tensor, width: int) -> None:
        """`width`: columns of a head."""
        y = Tensor(f"{name} output", queries.axes, queries.width)
        normaliser = Tensor(f"{name} normaliser", queries.axes[:-1], 4)
        super().__init__(name, (queries, keys, values), (y, normaliser))
        self.width = width

    @override
    def forward(self, work: Writer) -> None:
        """Read queries, keys and values, write the result."""
        self._kernel(work, self.name, 1.0, (*self.reads, self.result), 1)

    @override
    def backward(self, work: Writer) -> None:
        """Read these, the result and its gradient; write three gradients."""
        moved = (*self.reads, self.result, self.result, *self.reads)
        self._kernel(work, f"{self.name} backward", BACKWARD, moved, 3)

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return (*self.reads, *self.writes)

    @override
    def products(self, work: Writer) -> float:
        queries, keys, _ = self.reads
        return 4.0 * work.elements(queries) * work.graph.count(keys.axes[1])

    def _kernel(self, work: Writer, name: str, factor: float, moved: tuple[Tensor, ...], kernels: int) -> None:
        """Rates are those of causal kernels, whose rows have half of their keys on average: so twice the keys."""
        queries, keys, _ = self.reads
        samples, places, columns = map(work.graph.count, queries.axes)
        heads, twice = columns // self.width, 2 * work.graph.count(keys.axes[1])
        work.operations.append(
            Operation(
                name,
                "attention",
                factor * self.products(work),
                float(sum(map(work.bytes, moved))),
                work.precision,
                samples * heads,
                places,
                twice,
                self.width,
                kernels,
                masked=0.0,
                phase=work.phase,
            )
        )


class ChannelShift(Operator):
    """Adds a vector of each sample to all places of an image; eager code by a kernel of its own."""

    __slots__ = ()

    def __init__(self, name: str, x: Tensor, shift: Tensor) -> None:
        super().__init__(name, (x, shift), (Tensor(f"{name} output", x.axes, x.width),))

    @override
    def forward(self, work: Writer) -> None:
        """Read, write; a compiler adds it in the norm that follows."""
        fused = work.shard.fusion == "pointwise"
        work.memory(self.name, 0 if fused else 2 * work.bytes(self.result), 0 if fused else 1)

    @override
    def backward(self, work: Writer) -> None:
        """The gradient of the image is that of the sum; that of the vector is the sum over places."""
        work.memory(f"{self.name} backward", work.bytes(self.result))

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        return (Step(self.reads[:1], self.writes, (), alias=True),)
