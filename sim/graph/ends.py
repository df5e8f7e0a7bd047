"""The two ends of a language model: token embedding, and cross-entropy. Tensor ranks share the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from typing_extensions import override

from sim.graph.graph import Operator, Step, Tensor
from sim.graph.operation import LossKind
from sim.graph.products import Leave
from sim.graph.work import Writer

WIDE = 4  # bytes of a 32-bit number


class Loss(NamedTuple):
    """Memory traffic per logit [B] and kernels of both passes of the cross-entropy, and the copies of the logits.

    made: bytes per logit of the tensors it makes one after the other, None for the width of the logits; the last is
    kept. At none the gradient is made in place of what is `kept`. held: bytes per logit that the caller does not let
    go before the backward pass is over; of the logits themselves, or of the first copy if that is 4.
    """

    forward: int
    backward: int
    forward_kernels: int
    backward_kernels: int
    made: tuple[int | None, ...] = (4, 4)
    held: int = 0
    kept: int = 0


# 16-bit logits, 32-bit arithmetic, one term per kernel as read + write.
UPCAST = Loss(6 + 8, 4 + 12 + 6, 3, 3)
LOSSES = {
    # Megatron Core, tensor_parallel/cross_entropy.py: cast, maximum, subtract, exponential, sum, divide;
    # backward: scale, cast. Softmax is kept in 32 bit, logits and gradients are 16 bit
    "vocabulary_parallel": Loss(6 + 4 + 8 + 8 + 4 + 8, 8 + 6, 6, 3, (), kept=4),
    # PyTorch: cast, log-softmax, loss; backward: scattered zeros, log-softmax, cast. The log-softmax is kept, its
    # gradient and that of its input meet it
    "eager": UPCAST,
    # one pass for the normaliser, one that reads the 16-bit logits and writes gradients
    "compiled": Loss(2, 4, 1, 1, (), kept=2),
    # LLM Foundry, models/mpt/modeling_mpt.py: flash-attn's kernel each way (fused_crossentropy). After the backward
    # pass (Composer, _train_microbatch) two metrics, LanguageCrossEntropy and LanguagePerplexity, each PyTorch's
    # forward
    "with_metrics": Loss(2, 4 + 2 * (6 + 8), 1, 1 + 2 * 3, (), kept=2),
    # PyTorch cross_entropy of 16-bit logits: log-softmax and loss in 16 bit; the caller may keep the logits
    "eager_16bit": Loss(4, 2 + 6, 2, 2, (None,)),
    "eager_16bit_held": Loss(4, 2 + 6, 2, 2, (None,), held=2),
    # Transformers, loss/loss_utils.py: cast, log-softmax, loss; the model returns its 16-bit logits
    "transformers": UPCAST._replace(held=2),
    # Transformers before 4.45, modeling_llama.py: 32-bit logits are returned, and copied as they are shifted
    "transformers_2023": Loss(6 + 8 + 8, 4 + 12 + 8 + 6, 4, 4, (4, 4, 4), held=4),
    # TRL, chunked_nll, and torchtune, CEWithChunkedOutputLoss with a checkpoint for each chunk
    "chunked": UPCAST,
    # Liger-Kernel, ops/fused_linear_cross_entropy.py: gradients of input and head are made in the forward pass,
    # those of the logits in their place
    "liger": Loss(2 + 4, 0, 1, 0, (4,)),
}
CHUNKED = ("chunked", "liger")  # losses that make the logits in parts


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
    """Softmax and loss of logits, whose largest and sums tensor ranks exchange.

    Losses that make the logits in parts divide the axis of their `rows`; those of few classes have none.
    """

    __slots__ = ("rows",)

    def __init__(self, logits: Tensor, rows: str | None = "tokens") -> None:
        super().__init__("cross-entropy", (logits,), (Tensor("loss", logits.axes[:-1], 4),))
        self.rows = rows

    @override
    def forward(self, work: Writer) -> None:
        """Largest logit, predicted logit and sum of exponentials go over ranks, 4 B per token each."""
        loss, logits = LOSSES[self._kind(work)], self._parts(work) * work.elements(self.reads[0])
        work.memory(self.name, (loss.forward + self._again(work, READ_AGAIN)) * logits, loss.forward_kernels)
        if work.graph.is_split(self.reads[0].axes[-1]) and work.shard.tensor > 1:
            for name in ("maximum", "predicted logit", "sum"):
                work.collective(f"loss {name}", "all_reduce", work.bytes(self.result))

    @override
    def backward(self, work: Writer) -> None:
        """Softmax minus one-hot; of logits in parts that are computed again."""
        kind, count = self._kind(work), work.graph.count
        loss, logits = LOSSES[kind], self._parts(work) * work.elements(self.reads[0])
        if kind == "chunked":
            assert self.rows
            work.product("head again", (count(self.rows), count(self.reads[0].axes[-1]), count("hidden")))
            self.forward(work)
        moved = loss.backward + self._again(work, READ_AGAIN_BACKWARD)
        work.memory(f"{self.name} backward", moved * logits, loss.backward_kernels)

    def _again(self, work: Writer, more: int) -> int:
        """`more` bytes a logit for rows of 16 bit between loads in PyTorch's kernels, else none."""
        between = work.graph.count(self.reads[0].axes[-1]) % LOAD
        return more if self._kind(work) in ("eager_16bit", "eager_16bit_held") and between else 0

    def _parts(self, work: Writer) -> int:
        return work.shard.loss_chunks if self._kind(work) in CHUNKED else 1

    def _kind(self, work: Writer) -> LossKind:
        """The stack's; logits that are not those of rows of tokens are made at once."""
        kind, whole = work.shard.cross_entropy, self.rows is None or self.rows not in work.graph.sizes
        return "eager" if whole and kind in CHUNKED else kind

    @override
    def needs(self, work: Writer) -> Iterable[Tensor]:
        """The last copy of the logits and what the caller holds; of logits in parts nothing, or gradients (Liger)."""
        kind, loss = self._kind(work), _loss(self._kind(work), work)
        if kind == "chunked":
            return ()
        if kind == "liger":
            return self._gradients(work)
        if not loss.made:
            return (self._copy("softmax", loss.kept),)
        made = self._made(work)
        return (made[-1], *self._held(work, made))

    @override
    def steps(self, work: Writer) -> tuple[Step, ...]:
        """One for each copy of the logits; what the caller holds goes with the first of them."""
        (logits,), made = self.reads, self._made(work)
        if self._kind(work) == "liger":
            gradients = self._gradients(work)
            return Step((logits,), made, ()), Step(made, (*self.writes, *gradients), gradients)
        if not made:
            kept = tuple(self.needs(work))
            return (Step((logits,), (*self.writes, *kept), kept),)
        held, last = self._held(work, made), made[-1:]
        before = (logits, *made)
        copies = [
            Step((read,), (made_,), (*(held if number == 0 else ()), *(last if made_ is made[-1] else ())))
            for number, (read, made_) in enumerate(zip(before, made, strict=False))
        ]
        return (*copies, Step(last, self.writes, ()))

    def held_bytes(self, work: Writer) -> int:
        """What the caller of the model holds until the backward pass is over [B]."""
        return _loss(self._kind(work), work).held * work.elements(self.reads[0])

    def _made(self, work: Writer) -> tuple[Tensor, ...]:
        widths = enumerate(_loss(self._kind(work), work).made)
        return tuple(self._copy(f"copy {number}", width or self.reads[0].width) for number, width in widths)

    def _held(self, work: Writer, made: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the caller holds: the logits, or their first copy."""
        held = _loss(self._kind(work), work).held
        return () if not held else self.reads if held == self.reads[0].width else made[:1]

    def _gradients(self, work: Writer) -> tuple[Tensor, ...]:
        """Of the hidden state and of the head."""
        assert self.rows
        vocabulary = self.reads[0].axes[-1]
        whole = Tensor("gradient of the hidden state", (self.rows, "hidden"), work.element)
        return whole, Tensor("gradient of the head", (vocabulary, "hidden"), work.element)

    def _copy(self, what: str, width: int) -> Tensor:
        return Tensor(f"logits {what}", self.reads[0].axes, width)


def _loss(kind: LossKind, work: Writer) -> Loss:
    """The kind that runs: in 32-bit training there is nothing to cast, and autocast casts what is narrow."""
    wide = work.element == WIDE
    if wide and kind in ("eager", "transformers", "chunked"):
        return LOSSES["eager_16bit"]._replace(held=LOSSES[kind].held * 2)
    if work.shard.autocast and kind in ("eager_16bit", "eager_16bit_held"):
        return UPCAST._replace(held=LOSSES[kind].held)
    return LOSSES[kind]
