"""Small models on single boards: kernels of teaching and Hugging Face code, autocast, losses, padded vocabularies."""

from __future__ import annotations

from dataclasses import replace

import pytest
from workload_samples import embedding_block, head_block, layer_block, traffic, with_

from sim.graph.operation import Block, Operation, Shard
from sim.inputs.load import load_definition, load_experiment
from sim.inputs.records import Experiment, Parallelism, Software, Training
from sim.models.dense import Transformer

GPT2 = Transformer(
    kind="transformer", layers=12, hidden=768, heads=12, ffn=3072, vocab=50257, positions="learned", bias=True
)
LLAMA = Transformer(
    kind="transformer",
    layers=32,
    hidden=4096,
    heads=32,
    ffn=11008,
    vocab=32000,
    activation="swiglu",
    norm="rmsnorm",
    positions="rotary",
    tied_embeddings=False,
    bias=False,
)
QWEN = with_(LLAMA, layers=24, hidden=896, heads=14, kv_heads=2, ffn=4864, vocab=151936, tied_embeddings=True)
SHARD = Shard(microbatch=8, sequence_length=1024)


def job(parallelism: Parallelism, training: Training, software: Software) -> Experiment:
    """An experiment that trains so."""
    changes = {"parallelism": parallelism, "training": training, "software": software}
    return load_experiment("quickstart").experiment.model_copy(update=changes)


def shard(stack: str, **changes: object) -> Shard:
    """What a rank of the stack runs on eight sequences of 1,024 tokens."""
    software = load_definition("software", stack)
    assert isinstance(software, Software)
    training = Training(global_batch=8, microbatch=8, sequence_length=1024)
    return replace(job(Parallelism(), training, software).setup.shard, **changes)  # type: ignore[arg-type]


def blocks(model: Transformer, shard: Shard) -> list[tuple[int, Block]]:
    """The parts of a model, and how often each is there."""
    ends = (embedding_block(model, shard), head_block(model, shard))
    return [(model.layers, layer_block(model, shard)), *((1, end) for end in ends)]


def kernels(operations: tuple[Operation, ...]) -> int:
    return sum(operation.kernels for operation in operations)


# Kernels of one step that PyTorch 2.13 launches, views left out, counted with its dispatcher on fake tensors:
# GPT-2 of 124M in plain bf16, under autocast, and written out; Transformers' Llama and Qwen under autocast.
@pytest.mark.parametrize(
    ("stack", "model", "forward", "backward"),
    [
        ("pytorch-16bit", GPT2, 177, 310),
        ("nanogpt-eager", GPT2, 251, 385),
        ("teaching", with_(GPT2, attention="unfused"), 544, 1062),
        ("huggingface", QWEN, 973, 1752),
        ("huggingface", LLAMA, 1229, 2103),
    ],
)
def test_eager_stacks_launch_as_many_kernels_as_were_counted(
    stack: str, model: Transformer, forward: int, backward: int
) -> None:
    parts = blocks(model, shard(stack))
    # 12 %: kernels of a value a row, and of what autograd adds, are counted in part only
    assert sum(count * kernels(block.forward) for count, block in parts) == pytest.approx(forward, rel=0.12)
    assert sum(count * kernels(block.backward) for count, block in parts) == pytest.approx(backward, rel=0.12)


def test_norms_and_gelu_that_are_written_out_move_each_intermediate() -> None:
    written = layer_block(GPT2, replace(SHARD, fused_kernels=False, pointwise="written_out"))
    native = layer_block(GPT2, replace(SHARD, fused_kernels=False))
    rows = 8 * 1024
    per_row = 2 * 768 * (10 - 2) + 3072 * (18 - 2)  # two norms, one GELU: passes over elements of 2 B
    assert traffic(written.forward) - traffic(native.forward) == pytest.approx(2 * rows * per_row)
    assert kernels(written.forward) - kernels(native.forward) == 2 * (8 - 1) + 8 - 1
    assert traffic(written.backward) > traffic(native.backward)


def test_only_layer_norms_and_gelu_are_written_out() -> None:
    plain = replace(SHARD, fused_kernels=False)
    assert layer_block(LLAMA, replace(plain, pointwise="written_out")) == layer_block(LLAMA, plain)


def test_autocast_keeps_the_residual_stream_in_32_bit_and_casts_weights() -> None:
    plain, wide = layer_block(GPT2, SHARD), layer_block(GPT2, replace(SHARD, autocast=True))
    elements = 8 * 1024 * 768
    # two norms read and write 2 B more, and so do two sums
    assert traffic(wide.forward) - traffic(plain.forward) == pytest.approx(elements * (2 * 4 + 2 * 4))
    # five passes of a norm move 2 B more, and so do the three operands of both sums of gradients
    assert traffic(wide.backward) - traffic(plain.backward) == pytest.approx(elements * (2 * 10 + 2 * 6))
    cast = shard("nanogpt").gather_copy
    assert cast == shard("nanogpt").reduce_copy == 6  # B: 4 read and 2 written, or the other way
    assert shard("fsdp-compile").gather_copy == 0


def test_autocast_has_eager_softmax_in_32_bit() -> None:
    unfused, eager = with_(GPT2, attention="unfused"), replace(SHARD, fused_kernels=False)
    scores = 8 * 12 * 1024 * 1024

    def moved(shard: Shard) -> float:
        block = layer_block(unfused, shard)
        return traffic(o for o in block.forward + block.backward if o.name.startswith("softmax"))

    assert moved(eager) == pytest.approx(scores * 2 * ((2 + 4) + (3 + 4)))  # softmax, scale and mask
    more = (6 + 4 + 6) + (6 + 6 + 6)  # a cast, two or three operands in 32 bit, and a cast back
    assert moved(replace(eager, autocast=True)) - moved(eager) == pytest.approx(scores * more)


def test_sharded_weights_are_cast_as_they_are_gathered_not_by_autocast() -> None:
    software = load_definition("software", "huggingface")
    assert isinstance(software, Software)
    training = Training(global_batch=8, microbatch=8, sequence_length=1024)
    sharded = job(Parallelism(zero_stage=3), training, software).setup.shard
    assert (sharded.casts_weights, sharded.gather_copy) == (False, software.gather_copy_bytes)


def test_a_loss_on_16_bit_logits_moves_less_and_reads_rows_between_loads_again() -> None:
    logits = 8 * 1024 * 50304
    aligned = with_(GPT2, vocab=50304)
    pure = replace(SHARD, cross_entropy="eager_16bit")

    def moved(model: Transformer, shard: Shard) -> float:
        block = head_block(model, shard)
        return traffic(o for o in block.forward + block.backward if "cross-entropy" in o.name)

    assert moved(aligned, pure) == pytest.approx((4 + 8) * logits)
    assert moved(aligned, replace(SHARD, cross_entropy="eager")) == pytest.approx((14 + 22) * logits)
    assert moved(GPT2, pure) == pytest.approx((8 + 12) * logits * 50257 / 50304)


def test_fused_attention_draws_numbers_in_both_passes() -> None:
    dropped = layer_block(with_(GPT2, dropout=True), SHARD)
    scores = 8 * 12 * 1024 * 1024 * 0.5 * (1 + 128 / 1024)  # with whole tiles on the diagonal
    for operations in (dropped.forward, dropped.backward):
        (drawn,) = [o for o in operations if o.name.startswith("attention") and o.name.endswith("dropout")]
        assert drawn.flops == pytest.approx(2 * (7 * 10 / 16 + 4) * scores)
        assert (drawn.bytes_moved, drawn.kernels, drawn.precision) == (0.0, 0, "fp32")
    assert not any(o.name.endswith("dropout") for o in layer_block(GPT2, SHARD).forward)


def test_stacks_pad_the_vocabulary_of_each_tensor_rank() -> None:
    padded = replace(SHARD, pads_vocabulary=128)
    for tensor, columns in ((1, 50304), (2, 25216), (8, 6400)):
        (product,) = [o for o in head_block(GPT2, replace(padded, tensor=tensor)).forward if o.name == "head"]
        assert product.n == columns
    (plain,) = [o for o in head_block(GPT2, SHARD).forward if o.name == "head"]
    assert plain.n == 50257
    assert shard("megatron-core").pads_vocabulary == 128
