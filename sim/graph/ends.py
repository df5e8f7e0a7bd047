"""The two ends of a language model: token embedding, and cross-entropy. Tensor ranks share the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from typing_extensions import override

from sim.graph.graph import Operator, Step, Tensor
from sim.graph.products import Leave
from sim.graph.work import Writer


class Loss(NamedTuple):
    """Memory traffic per logit [B] and kernels of both passes of the cross-entropy, and the memory they take [B].

    `kept` for the backward pass, `working` beside it at the fullest moment.
    """

    forward: int
    backward: int
    forward_kernels: int
    backward_kernels: int
    kept: int
    working: int


# 16-bit logits, 32-bit arithmetic, one term per kernel as read + write.
LOSSES = {
    # Megatron Core, tensor_parallel/cross_entropy.py: cast, maximum, subtract, exponential, sum, divide;
    # backward: scale, cast. Softmax is kept in 32 bit, logits and gradients are 16 bit
    "vocabulary_parallel": Loss(6 + 4 + 8 + 8 + 4 + 8, 8 + 6, 6, 3, 4, 2),
    # PyTorch: cast, log-softmax, loss; backward: scattered zeros, log-softmax, cast. The log-softmax is kept, its
    # gradient and that of its input meet it
    "eager": Loss(6 + 8, 4 + 12 + 6, 3, 3, 4, 4 + 4),
    # PyTorch on 16-bit logits without a cast: log-softmax and loss; backward: scattered zeros and log-softmax
    "eager_16bit": Loss(4, 2 + 6, 2, 2, 2, 2 + 2),
    # one pass for the normaliser, one that reads the 16-bit logits and writes gradients
    "compiled": Loss(2, 4, 1, 1, 2, 2),
    # LLM Foundry, models/mpt/modeling_mpt.py: flash-attn's kernel each way (fused_crossentropy). After the backward
    # pass (Composer, _train_microbatch) two metrics, LanguageCrossEntropy and LanguagePerplexity, each PyTorch's
    # forward
    "with_metrics": Loss(2, 4 + 2 * (6 + 8), 1, 1 + 2 * 3, 2, 2),
}


# Reads more in each pass [B] where rows of 16-bit logits do not start at loads of 16 B: PyTorch then keeps no row in
# shared memory, and reads it for its maximum, its sum and the result, and backward for a sum and the result (PyTorch,
# aten/src/ATen/native/cuda/SoftMax.cu, can_use_smem).
READ_AGAIN, READ_AGAIN_BACKWARD = 2 + 2, 2 + 2
LOAD = 8  # logits


class Lookup(Operator):
    """Rows of a table by token, read and written; partial where ranks hold a share of the table."""

    __slots__ = ("leave",)

    def __init__(self, name: str, tokens: Tensor, table: Tensor) -> None:
        result = Tensor(f"{name} output", (*tokens.axes, table.axes[-1]), table.width)
        super().__init__(name, (tokens,), (result,), (table,))
        self.leave: Leave | None = None

    @override
    def forward(self, work: Writer) -> None:
        work.memory(f"{self.name} lookup", 2 * work.element * work.elements(self.result))

    @override
    def backward(self, work: Writer) -> None:
        """Gather the gradient (sequence parallelism only) and add its rows to the table's gradient.

        A dense gradient is cleared, filled and added: write e, read e and g, write g per weight.
        """
        arrived = work.element * work.elements(self.result)
        if self.leave and work.splits:
            work.along_sequence(f"{self.name} gradient gather", "all_gather", arrived)
        table = work.elements(self.weights[0]) * 2 * (work.element + work.gradient_bytes)
        work.memory(f"{self.name} gradient", arrived + table, 3)


class CrossEntropy(Operator):
    """Softmax and loss of logits, whose largest and sums tensor ranks exchange."""

    __slots__ = ()

    def __init__(self, logits: Tensor) -> None:
        super().__init__("cross-entropy", (logits,), (Tensor("loss", logits.axes[:-1], 4),))

    @override
    def forward(self, work: Writer) -> None:
        """Largest logit, predicted logit and sum of exponentials go over ranks, 4 B per token each."""
        loss, logits = LOSSES[work.shard.cross_entropy], work.elements(self.reads[0])
        work.memory(self.name, (loss.forward + self._again(work, READ_AGAIN)) * logits, loss.forward_kernels)
        if work.shard.tensor > 1:
            for name in ("maximum", "predicted logit", "sum"):
                work.collective(f"loss {name}", "all_reduce", work.bytes(self.result))

    @override
    def backward(self, work: Writer) -> None:
        """Softmax minus one-hot."""
        loss, logits = LOSSES[work.shard.cross_entropy], work.elements(self.reads[0])
        moved = loss.backward + self._again(work, READ_AGAIN_BACKWARD)
        work.memory(f"{self.name} backward", moved * logits, loss.backward_kernels)

    def _again(self, work: Writer, more: int) -> int:
        """`more` bytes a logit for rows of 16 bit between loads in PyTorch's kernels, else none."""
        between = work.graph.count(self.reads[0].axes[-1]) % LOAD
        return more if work.shard.cross_entropy == "eager_16bit" and between else 0

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        return (Tensor("softmax", self.reads[0].axes, LOSSES[work.shard.cross_entropy].kept),)

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        """PyTorch casts to 32 bit and keeps the log-softmax; others keep what they say."""
        (kept,) = self.needs(work)
        if work.shard.cross_entropy != "eager":
            return (Step(self.reads, (*self.writes, kept), (kept,)),)
        wide = Tensor("logits in 32 bit", self.reads[0].axes, 4)
        return Step(self.reads, (wide,), ()), Step((wide,), (kept,), (kept,)), Step((kept,), self.writes, ())

    @override
    def working(self, work: Writer) -> int:
        """Copies of the logits beside what is kept, at the fullest moment."""
        return LOSSES[work.shard.cross_entropy].working * work.elements(self.reads[0])
