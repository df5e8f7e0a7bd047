"""Parameter counts, exact, and the FLOPs per token that follow from them.

What tensor parallelism splits is counted apart from what every rank keeps (norms, and the bias
added after a row-parallel product).
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.spec.records import LowRank, Transformer
from sim.workload.extent import GATED, head_width, kv_head_count, share
from sim.workload.lora import adapter_parameters

PASSES = 3  # a product has one forward pass and two backward: for its input and for its weights


@dataclass(frozen=True, slots=True)
class Layer:
    """Parameters of one layer: matrices and biases split over tensor ranks, and the rest."""

    split: int
    copied: int

    @property
    def total(self) -> int:
        """All parameters of the layer."""
        return self.split + self.copied


def layer_parameters(model: Transformer, tensor: int = 1) -> Layer:
    """Parameters of one layer on the fullest of `tensor` ranks; 12 h^2 + 13 h for GPT."""
    matrices = model.hidden * matrix_columns(model, tensor)
    biases = _column_outputs(model, tensor) if model.bias else 0
    return Layer(matrices + biases, 2 * norm_parameters(model) + (2 * model.hidden if model.bias else 0))


def matrix_columns(model: Transformer, tensor: int = 1) -> int:
    """Weights of a layer's matrices per row of the hidden state, on one of `tensor` ranks."""
    heads = share(model.heads, tensor) * head_width(model)
    return _column_outputs(model, tensor) + heads + share(model.ffn, tensor)


def norm_parameters(model: Transformer) -> int:
    """Scale, and shift unless it is an RMSNorm."""
    return model.hidden * (2 if model.norm == "layernorm" else 1)


def embedding_parameters(model: Transformer, tensor: int = 1) -> int:
    """The token table on one of `tensor` ranks."""
    return share(model.vocab, tensor) * model.hidden


def position_parameters(model: Transformer, sequence_length: int = 2048) -> int:
    """The learned position table; every tensor rank keeps it whole."""
    if model.positions != "learned":
        return 0
    return (model.max_positions or sequence_length) * model.hidden


def head_parameters(model: Transformer, tensor: int = 1) -> int:
    """The output matrix, unless it is the token table."""
    return 0 if model.tied_embeddings else embedding_parameters(model, tensor)


def total_parameters(model: Transformer, sequence_length: int = 2048) -> int:
    """Parameters of the model, each counted once."""
    return (
        model.layers * layer_parameters(model).total
        + embedding_parameters(model)
        + position_parameters(model, sequence_length)
        + head_parameters(model)
        + norm_parameters(model)
    )


def rank_parameters(
    model: Transformer,
    tensor: int,
    layers: int,
    *,
    first: bool,
    last: bool,
    sequence_length: int = 2048,
) -> int:
    """Parameters one rank holds with `layers` layers on its stage, before data-parallel sharding.

    A last stage that is not the first has its own copy of a tied table (Narayanan 2021, 2.2).
    """
    count = layers * layer_parameters(model, tensor).total
    if first:
        count += embedding_parameters(model, tensor) + position_parameters(model, sequence_length)
    if last:
        count += norm_parameters(model)
        count += head_parameters(model, tensor) if first else embedding_parameters(model, tensor)
    return count


def trained_parameters(model: Transformer, lora: LowRank | None, tensor: int, layers: int, all_of_it: int) -> int:
    """Parameters with gradients among `all_of_it` of a rank with `layers` layers: all, or its adapters."""
    return all_of_it if lora is None else layers * adapter_parameters(model, lora, tensor)


def passes_of_weights(lora: LowRank | None) -> int:
    """Products per matrix and step: frozen matrices have no weight gradient."""
    return PASSES if lora is None else PASSES - 1


def model_flops_per_token(model: Transformer, sequence_length: int, lora: LowRank | None = None) -> float:
    """Forward and backward without recomputation, full attention [FLOP].

    For GPT: 72 s l h^2 (1 + s/6h + V/12lh) per sequence of s tokens (Korthikanti 2022, appendix A).
    With frozen matrices 4 and not 6 FLOP per weight, and 6 per weight of an adapter.
    """
    weights = model.layers * 2.0 * model.hidden * matrix_columns(model) + _head_flops(model)
    core = model.layers * core_flops_per_token(model, sequence_length)
    adapters = 2.0 * model.layers * adapter_parameters(model, lora) if lora else 0.0
    return passes_of_weights(lora) * weights + PASSES * (core + adapters)


def hardware_flops_per_token(
    model: Transformer, sequence_length: int, recompute: str, lora: LowRank | None = None, *, stops: bool = False
) -> float:
    """The same with what is recomputed [FLOP].

    Full, for GPT: 96 s l h^2 (1 + s/6h + V/16lh) per sequence (Narayanan 2021, equation 3); without the last
    product of each layer where recomputation `stops` before it.
    Selective repeats the attention core, unless flash attention does it inside its kernel.
    """
    full = layer_flops_per_token(model, sequence_length) - 2.0 * stops * model.hidden * model.ffn
    again = {
        "none": 0.0,
        "selective": 0.0 if model.attention == "flash" else core_flops_per_token(model, sequence_length),
        "alternate": 2.0 * model.hidden * alternate_columns(model),
        "keep_qkv": full - 2.0 * model.hidden * (model.heads + 2 * kv_head_count(model)) * head_width(model),
        "full": full,
    }
    return model_flops_per_token(model, sequence_length, lora) + model.layers * again[recompute]


def layer_flops_per_token(model: Transformer, sequence_length: int) -> float:
    """One forward pass of one layer [FLOP]: 2 per weight, and the attention core."""
    return 2.0 * model.hidden * matrix_columns(model) + core_flops_per_token(model, sequence_length)


def alternate_columns(model: Transformer) -> int:
    """Columns of the products that alternate recomputation repeats: key, attention output, and up if gated."""
    attention = (model.heads + kv_head_count(model)) * head_width(model)
    return attention + (model.ffn if model.activation in GATED else 0)


def core_flops_per_token(model: Transformer, sequence_length: int) -> float:
    """Scores and context of one layer, forward, full attention [FLOP]."""
    return 4.0 * sequence_length * model.heads * head_width(model)


def _head_flops(model: Transformer) -> float:
    return 2.0 * model.hidden * model.vocab


def _column_outputs(model: Transformer, tensor: int) -> int:
    """Output columns of QKV and of the first feed-forward product on one rank."""
    attention = share(model.heads, tensor) + 2 * share(kv_head_count(model), tensor)
    inner = share(model.ffn, tensor) * (2 if model.activation in GATED else 1)
    return attention * head_width(model) + inner
