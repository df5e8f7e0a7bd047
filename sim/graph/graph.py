"""A model as a graph: operators over tensors with named axes. Everything else about a model is derived from it.

An axis is a name whose local count stands in the sizes of the graph, a tuple of names side by side (query, key and
value in one product), or a count where counts change from layer to layer. Sharding belongs to the tensor and not to
the axis: tokens are whole inside a product and may be split outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    from sim.graph.work import Writer

Axis = str | int | tuple[str, ...]
Role = Literal["activation", "weight", "frozen", "index", "table", "state"]
# A table is updated row by row in the backward pass; a state is what its optimizer keeps, and no parameter.
Sizes = dict[str, int]


class Tensor:
    """An array of `width` bytes per element; equal only to itself."""

    __slots__ = ("axes", "name", "role", "width")

    def __init__(self, name: str, axes: tuple[Axis, ...], width: int = 2, role: Role = "activation") -> None:
        self.name, self.axes, self.width, self.role = name, axes, width, role


class Step(NamedTuple):
    """What one eager operator reads, writes and keeps, and the weights that get a gradient.

    An alias hands on the gradient of its result as that of what it read, without a copy. What is `brought` is there
    while its backward pass runs: a gathered input, a second gradient of the same weight.
    """

    reads: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]
    weights: tuple[Tensor, ...] = ()
    alias: bool = False
    brought: tuple[Tensor, ...] = ()
    ends: bool = False  # no gradient goes through it


class Operator:
    """One step of the forward pass with the rules of its kind: cost of both passes, what is kept, FLOPs.

    A kind is a subclass, and knows no other kind. Passes over a graph change what operators read and write.
    """

    __slots__ = ("name", "reads", "region", "weights", "writes")

    in_place = False  # it changes what it reads, so it is no second reader of it

    def __init__(
        self,
        name: str,
        reads: tuple[Tensor, ...],
        writes: tuple[Tensor, ...],
        weights: tuple[Tensor, ...] = (),
        region: str = "",
    ) -> None:
        self.name, self.reads, self.writes, self.weights, self.region = name, reads, writes, weights, region

    @property
    def result(self) -> Tensor:
        """The tensor it writes, or the first of them."""
        return self.writes[0]

    def forward(self, work: Writer) -> None:
        """Write the operations of the forward pass."""

    def backward(self, work: Writer) -> None:
        """Write those of the backward pass: gradients of what was read, and of weights."""

    def needs(self, work: Writer) -> Iterable[Tensor]:
        """What the backward pass reads of the forward pass."""
        return ()

    def steps(self, work: Writer) -> tuple[Step, ...]:
        """What an eager framework makes of it, for the liveness of tensors; nothing where no storage changes hands."""
        weights = () if work.frozen else self.weights
        return (Step(self.reads, self.writes, tuple(self.needs(work)), weights),) if self.writes else ()

    def products(self, work: Writer) -> float:
        """FLOPs of one forward pass as a model counts them: matrix products, attention in full [FLOP]."""
        return 0.0

    def trained_passes(self, work: Writer) -> float:
        """How often these are done in a step: forward, for the gradient of the input, and of weights."""
        return 3


OperatorT = TypeVar("OperatorT", bound=Operator)


class Graph:
    """A piece of a model: what runs in a row, is recomputed, and travels between ranks as one.

    sizes: local count of each named axis. split: axes that tensor ranks share. A piece is `repeated` if it is
    one of many in a row: only such pieces are recomputed and adapted. What is `carried` was made by an earlier piece
    for several, which keeps it, and travels along with the source.
    """

    __slots__ = ("carried", "name", "operators", "repeated", "sizes", "source", "split")

    def __init__(
        self, name: str, source: Tensor, sizes: Sizes, split: frozenset[str] = frozenset(), *, repeated: bool = False
    ) -> None:
        self.name, self.source, self.sizes, self.split, self.repeated = name, source, sizes, split, repeated
        self.carried: tuple[Tensor, ...] = ()
        self.operators: list[Operator] = []

    def add(self, operator: OperatorT) -> OperatorT:
        """Append `operator`, and hand it back."""
        self.operators.append(operator)
        return operator

    @property
    def output(self) -> Tensor:
        """What the piece hands to the next."""
        return next(each.result for each in reversed(self.operators) if each.writes)

    def count(self, axis: Axis) -> int:
        """Local count along `axis`."""
        if isinstance(axis, str):
            return self.sizes[axis]
        return axis if isinstance(axis, int) else sum(self.sizes[one] for one in axis)

    def elements(self, tensor: Tensor) -> int:
        """Local elements of `tensor`."""
        product = 1
        for axis in tensor.axes:
            product *= self.count(axis)
        return product

    def bytes(self, tensor: Tensor) -> int:
        """Local bytes of `tensor` [B]."""
        return tensor.width * self.elements(tensor)

    def rows(self, tensor: Tensor) -> int:
        """Elements of `tensor` for each one along its last axis."""
        product = 1
        for axis in tensor.axes[:-1]:
            product *= self.count(axis)
        return product

    def is_split(self, axis: Axis) -> bool:
        """Whether tensor ranks share `axis`."""
        first = axis[0] if isinstance(axis, tuple) else axis
        return first in self.split

    def weights(self) -> Iterator[Tensor]:
        """All weights, each once."""
        return iter({id(each): each for operator in self.operators for each in operator.weights}.values())

    def parameters(self) -> int:
        """Weights that one rank holds."""
        return sum(self.elements(each) for each in self.weights() if each.role != "state")

    def trainable(self) -> int:
        """Those of them that have gradients: neither frozen by nature nor rows of tables."""
        return sum(self.elements(each) for each in self.weights() if each.role == "weight")

    def tables(self) -> list[Tensor]:
        """Tables among them, and their states."""
        return [each for each in self.weights() if each.role in ("table", "state")]
