"""Writes the operations of one pass through a graph, on one rank and for one microbatch, in issue order."""

from __future__ import annotations

from sim.graph.graph import Graph, Tensor
from sim.graph.operation import CollectiveKind, GroupKind, Operation, Phase, Shard
from sim.record import NARROW, narrow_bytes

ELEMENT_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2} | dict.fromkeys(NARROW, 2)
RANDOM_NUMBER_FLOPS = 2 * 40
SPARSE = 9 / 16  # of a 16-bit matrix of which half is kept, with 2 bits for the place of each weight


def element_bytes(precision: str) -> int:
    """Bytes of an activation or trained weight; narrow formats keep both in 16 bit."""
    return ELEMENT_BYTES[precision]


class Writer:
    """The operations written so far, with what their costs depend on.

    element: bytes of an activation; narrow: of an operand in a narrow format. precision: number format outside narrow
    products. gradient_bytes: per element
    of an accumulated weight gradient. Kernels that move each operand once are `fused`; else the separate kernels of
    an eager framework go through memory.
    """

    __slots__ = (
        "element",
        "frozen",
        "fused",
        "gradient_bytes",
        "graph",
        "narrow",
        "operations",
        "phase",
        "precision",
        "shard",
        "splits",
    )

    def __init__(self, graph: Graph, shard: Shard, gradient_bytes: int = 4) -> None:
        self.graph, self.shard, self.gradient_bytes = graph, shard, gradient_bytes
        self.element = element_bytes(shard.precision)
        self.narrow = narrow_bytes(shard.precision) if shard.precision in NARROW else self.element
        self.precision = "bf16" if shard.precision in NARROW else shard.precision
        self.fused = shard.fused_kernels
        self.frozen = shard.lora is not None
        self.splits = shard.sequence_parallel and shard.tensor > 1  # rows outside products, over tensor ranks
        self.phase = Phase.FORWARD
        self.operations: list[Operation] = []

    def memory(
        self,
        name: str,
        traffic: float,
        kernels: int = 1,
        *,
        random: float = 0.0,
        each: float = RANDOM_NUMBER_FLOPS,
    ) -> None:
        """A memory-bound pass of `traffic` [B], read plus written, that draws `random` numbers of `each` FLOP.

        Philox 4x32-10 takes about 25 integer operations per number (Salmon 2011, SC11), and comparing,
        scaling and packing the mask about 15 more. An integer operation takes the slot of a fused
        multiply-add, which counts as two FLOPs of the 32-bit vector rate (NVIDIA A100 whitepaper, table 4).
        """
        self.operations.append(
            Operation(
                name,
                "elementwise",
                each * random,
                float(traffic),
                "fp32" if random else self.precision,
                kernels=kernels,
                phase=self.phase,
            )
        )

    def product(
        self,
        name: str,
        shape: tuple[int, int, int],
        batch: int = 1,
        *,
        precision: str | None = None,
        parts: int = 1,
        accumulates: bool = False,
        sparse: bool = False,
    ) -> None:
        """`batch` products (m x k) by (k x n), `shape` = (m, n, k); each operand crosses memory once.

        Narrow operands carry their scales. A product that `accumulates` reads and writes its result in
        `gradient_bytes`. The second operand may be `sparse` (2:4).
        """
        m, n, k = shape
        precision, element = precision or self.precision, self.element
        operand = narrow_bytes(precision) if precision in NARROW else element
        result = 2 * self.gradient_bytes if accumulates else element
        self.operations.append(
            Operation(
                name,
                "matmul",
                2.0 * batch * m * n * k,
                float(batch * (operand * (m * k + (SPARSE if sparse else 1) * k * n) + result * m * n)),
                precision,
                batch,
                m,
                n,
                k,
                kernels=parts,
                parts=parts,
                output_bytes=self.gradient_bytes if accumulates else 2,
                gain=self.shard.sparse_gain if sparse else 1.0,
                phase=self.phase,
            )
        )

    def weight_gradient(self, name: str, inputs: int, outputs: int, rows: int, precision: str | None = None) -> None:
        """The gradient of a matrix (outputs x inputs), added to what earlier microbatches left.

        Fused kernels accumulate in the product; others write the product first and add it in a second kernel.
        """
        before, self.phase = self.phase, Phase.WEIGHT_GRADIENT
        fused = self.shard.fused_accumulation
        self.product(f"{name} weight gradient", (outputs, inputs, rows), precision=precision, accumulates=fused)
        if not fused:
            added = inputs * outputs * (self.element + 2 * self.gradient_bytes)
            self.memory(f"{name} gradient accumulation", added)
        self.phase = before

    def collective(
        self, name: str, kind: CollectiveKind, message: float, group: GroupKind = "tensor", hidden_by: int = 0
    ) -> None:
        """A collective over `group` beside the next `hidden_by` operations; `message` [B] as in `Operation`."""
        self.operations.append(
            Operation(
                name,
                "collective",
                collective=kind,
                group=group,
                message=float(message),
                hidden_by=hidden_by,
                phase=self.phase,
            )
        )

    def along_sequence(self, name: str, kind: CollectiveKind, message: float, *, laid_out: bool = False) -> None:
        """A collective over tensor ranks, with the copy around it where the batch is the first dimension.

        NCCL gathers and scatters along the first dimension only (PyTorch, _functional_collectives.py,
        all_gather_tensor and reduce_scatter_tensor: parts are joined along the other one after or before). What
        kernels around it see to is `laid_out`.
        """
        copied = self.shard.batch_first and not laid_out
        if copied and kind == "reduce_scatter":
            self.memory(f"{name} copy", 2 * message)
        self.collective(name, kind, message)
        if copied and kind == "all_gather":
            self.memory(f"{name} copy", 2 * message)

    def hidden(self, direction: str) -> bool:
        """Whether tensor-parallel traffic of "forward" or "backward" runs beside products."""
        return self.shard.tensor_overlap in (("full",) if direction == "forward" else ("backward", "full"))

    def bytes(self, tensor: Tensor) -> int:
        """Local bytes of `tensor` [B]."""
        return self.graph.bytes(tensor)

    def elements(self, tensor: Tensor) -> int:
        """Local elements of `tensor`."""
        return self.graph.elements(tensor)
