"""Frozen weights stored in few bits (QLoRA): memory, kernels, bytes on the wire, and 70B on two small boards."""

from __future__ import annotations

from typing import Any

import pytest
from plans import bytes_by_link, small_experiment

from sim.ask.run.step import Simulated, simulate_step
from sim.engine.category import Category
from sim.errors import ConfigError
from sim.graph.adapters import BASE_BYTES
from sim.graph.products import Linear
from sim.inputs.load import load_experiment
from sim.inputs.records import Experiment
from sim.metrics.memory import memory_result

LORA = {"rank": 16, "targets": ("qkv", "attention_output", "feed_forward_up", "feed_forward_down")}


def job(base: str | None, **fields: Any) -> Experiment:
    lora = LORA | ({"base": base} if base else {})
    training = {"global_batch": 8, "lora": lora} | fields.pop("training", {})
    return small_experiment(training=training, **fields)


def stored(step: Simulated) -> int:
    """Weights of the matrices of all layers on a rank."""
    architecture = step.plan.architecture
    return sum(
        graph.elements(weight)
        for graph in architecture.layers
        for operator in graph.operators
        if isinstance(operator, Linear)
        for weight in operator.weights
        if len(weight.axes) > 1
    )


def test_four_bits_are_half_a_byte_and_their_scales() -> None:
    """Double quantization: 0.127 bits a weight (Dettmers 2023, section 3)."""
    assert 8 * (BASE_BYTES["nf4"] - 0.5) == pytest.approx(0.127, abs=1e-3)


@pytest.mark.parametrize("base", ["int8", "nf4"])
def test_matrices_of_layers_take_what_they_are_stored_in(base: str) -> None:
    count = stored(simulate_step(job(None)))
    plain, narrow = (memory_result(job(each).setup).moments["loss"]["weights"] for each in (None, base))
    assert plain - narrow == pytest.approx((2 - BASE_BYTES[base]) * count, rel=1e-6)


@pytest.mark.parametrize("base", ["int8", "nf4"])
@pytest.mark.parametrize(("recompute", "uses"), [("none", 2), ("full", 3)])
def test_each_use_makes_them_16_bit(base: str, recompute: str, uses: int) -> None:
    """Forward, for the gradient of the input, and where the layer runs again: read as stored, written in 2 B."""
    chip = {"launch": 0.0}
    plain, step = (
        simulate_step(job(each, accelerator=chip, training={"global_batch": 16, "recompute": recompute}))
        for each in (None, base)
    )
    memory = step.setup.accelerator.memory
    traffic = uses * step.plan.microbatches[0] * (BASE_BYTES[base] + 2) * stored(step)
    added = [each.readings.critical.exposed[Category.COMPUTE] for each in (step, plain)]
    assert added[0] - added[1] == pytest.approx(traffic / (memory.bandwidth * memory.efficiency), rel=1e-6)


def test_shards_are_gathered_as_they_are_stored() -> None:
    """Each use of a layer, forward and backward, moves (n-1)/n of what it is stored in over each link of a ring."""
    plain, step = (simulate_step(job(base, parallelism={"zero_stage": 3})) for base in (None, "nf4"))
    saved = (2 - BASE_BYTES["nf4"]) * stored(step) * 2 * step.plan.microbatches[0] * 7 / 8
    carried = bytes_by_link(plain) - bytes_by_link(step)
    assert carried.max() == pytest.approx(saved, rel=1e-6)


def test_70b_fits_two_boards_of_24_gb_in_four_bits_alone() -> None:
    """Runs on two RTX 3090 (axolotl, issue 1522)."""
    source = {
        "cluster": {
            "name": "desk", "nodes": 1,
            "node": {"extends": "pcie-2x-4090", "accelerator": "rtx-3090"},
        },
        "workload": "llama2-70b", "software": "huggingface", "parallelism": {"zero_stage": 3},
        "training": {
            "global_batch": 2, "sequence_length": 512, "precision": "bf16", "recompute": "full",
            "lora": {"rank": 8, "base": "nf4"},
        },
    }  # fmt: skip
    assert memory_result(load_experiment(source).experiment.setup).verdict != "does not fit"
    for other in ("int8", "null"):
        wide = load_experiment(source, [f"training.lora.base={other}"]).experiment
        assert memory_result(wide.setup).verdict == "does not fit"


@pytest.mark.parametrize(("precision", "width"), [("fp8", 1.0), ("nvfp4", 0.5 + 1 / 16)])
def test_weights_cast_before_they_are_gathered_move_in_their_format(precision: str, width: float) -> None:
    """Forward and backward gathers alike, norms and the table in 16 bit (torchao, float8 all-gather)."""
    chip = {"matrix": {"peak": {"bf16": 3e14, precision: 6e14}}}
    plain, step = (
        simulate_step(
            small_experiment(
                accelerator=chip,
                parallelism={"zero_stage": 3},
                software={"gathers_narrow": narrow},
                training={"global_batch": 8, "precision": precision},
            )
        )
        for narrow in (False, True)
    )
    saved = (2 - width) * stored(step) * 2 * step.plan.microbatches[0] * 7 / 8
    assert (bytes_by_link(plain) - bytes_by_link(step)).max() == pytest.approx(saved, rel=1e-6)
    of_gathered = [memory_result(each.setup).peak_bytes_per_accelerator for each in (plain, step)]
    assert of_gathered[1] <= of_gathered[0]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"training": {"precision": "fp8"}, "accelerator": {"matrix": {"peak": {"bf16": 3e14, "fp8": 6e14}}}}, "bf16"),
        ({"model": {"moe": {"experts": 8, "top_k": 2, "ffn": 512}}}, "experts in few bits"),
    ],
)
def test_what_has_no_such_base_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        job("nf4", **fields)
