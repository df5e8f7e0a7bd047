"""Matrix products on an accelerator: published rates, tiles, alignment, and the spread of boards."""

from __future__ import annotations

import numpy as np
import pytest

from sim.ask.run.simulate import simulate
from sim.devices.boards import slowest_of
from sim.devices.compute import operation_time
from sim.devices.gpu import alignment_share, is_misaligned
from sim.graph.operation import Operation, Phase
from sim.inputs.load import load_definition, load_experiment
from sim.inputs.records import Accelerator
from sim.rng import stream
from support import ROOT


def accelerator(experiment: str, *overrides: str) -> Accelerator:
    path = ROOT / "experiments" / f"{experiment}.yaml"
    return load_experiment(path, overrides).experiment.setup.accelerator


A100 = accelerator("sc21-1.7b")
H100 = accelerator("llama3-8b-dgx-h100")


def product(m: int, n: int, k: int, batch: int = 1, precision: str = "bf16") -> Operation:
    traffic = 2.0 * batch * (m * k + k * n + m * n)
    return Operation("product", "matmul", 2.0 * batch * m * n * k, traffic, precision, batch, m, n, k)


def rate(operation: Operation, device: Accelerator) -> float:
    return operation.flops / operation_time(operation, device)


@pytest.mark.parametrize(
    ("device", "precision", "published"),
    [
        (A100, "fp16", 257e12),  # Horace He 2024: cuBLAS, normally distributed inputs
        (H100, "bf16", 720e12 * 755 / 834),  # SemiAnalysis 2024, times sustained over short-lived (ml-engineering)
        (H100, "fp8", 1280e12 * 755 / 834),
    ],
)
def test_a_product_of_8192_cubed_runs_at_the_published_rate(
    device: Accelerator, precision: str, published: float
) -> None:
    # 1 %: the profile gives three digits
    assert rate(product(8192, 8192, 8192, precision=precision), device) == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(
    ("name", "precision", "measured"),
    [  # zzc0721/torch-performance-test-data, products in PyTorch; the last as the A100 SXM, less as in ml-engineering
        ("rtx-4090", "bf16", 160.2e12),
        ("l4", "bf16", 59.4e12),
        ("a6000", "bf16", 110.6e12),  # of an A40
        ("h100-pcie", "bf16", 492.8e12),
        ("a100-pcie-80gb", "bf16", 257e12 * 252.9 / 271.2),
    ],
)
def test_single_boards_run_a_large_product_at_the_measured_rate(name: str, precision: str, measured: float) -> None:
    device = load_definition("accelerator", name)
    assert isinstance(device, Accelerator)
    # 4 %: two digits, and a chip of another board of the same kind
    assert rate(product(8192, 8192, 8192, precision=precision), device) == pytest.approx(measured, rel=0.04)


@pytest.mark.parametrize(
    ("name", "measured"),
    [  # the same source, 2,048 cubed
        ("rtx-4090", 164.8e12),
        ("rtx-5090", 173.9e12),
        ("h100-sxm", 676.6e12),
        ("a40", 95.5e12),
        ("a100-pcie-80gb", 138.5e12),
        ("h100-pcie", 449.1e12),
        ("l4", 70.9e12),
    ],
)
def test_small_products_lose_waves_and_writing_about_as_measured(name: str, measured: float) -> None:
    device = load_definition("accelerator", name)
    assert isinstance(device, Accelerator)
    # a third: operands of a repeated benchmark stay in the cache, bursts keep a higher clock (h100, l4), and the two
    # numbers of the A100 (fp16, bf16) are 1.55 apart
    assert rate(product(2048, 2048, 2048), device) == pytest.approx(measured, rel=0.33)
    assert rate(product(1024, 1024, 1024), device) < rate(product(2048, 2048, 2048), device)


@pytest.mark.parametrize(("name", "peak"), [("rtx-3090", 76.5e12), ("rtx-5090", 225e12)])
def test_boards_above_the_clock_of_their_sheet_are_held_to_its_peak(name: str, peak: float) -> None:
    device = load_definition("accelerator", name)
    assert isinstance(device, Accelerator)
    assert 0.85 * peak < rate(product(8192, 8192, 8192), device) < peak


def test_heads_that_start_between_loads_fall_to_the_vector_units() -> None:
    wide, odd = product(2048, 2048, 112, batch=32), product(2048, 2048, 108, batch=32)
    assert (is_misaligned(wide), is_misaligned(odd)) == (False, True)
    assert not is_misaligned(product(2048, 50257, 1024))  # one matrix: tensor cores load single elements
    assert rate(odd, A100) < A100.vector.fp32 < rate(wide, A100)  # type: ignore[operator]


def test_rows_that_start_between_loads_halve_the_rate_of_a_product() -> None:
    on_lines, on_loads, between = (product(8192, words, 768) for words in (50304, 50264, 50257))
    aligned = rate(on_lines, A100)
    assert rate(on_loads, A100) == pytest.approx(0.9 * aligned, rel=0.02)
    assert rate(between, A100) == pytest.approx(0.5 * aligned, rel=0.1)  # writing takes its time either way


def test_only_sizes_along_rows_count_for_alignment() -> None:
    forward = product(8191, 768, 3072)
    assert alignment_share(forward) == 1.0
    assert alignment_share(forward._replace(m=8192, k=3071)) == alignment_share(forward._replace(n=767)) == 0.5
    gradient = forward._replace(m=3072, k=8191, phase=Phase.WEIGHT_GRADIENT)  # of tokens by outputs, and by inputs
    assert alignment_share(gradient) == 1.0
    assert alignment_share(gradient._replace(m=3071)) == 0.5


def test_alignment_counts_in_bytes() -> None:
    odd_fours = product(8192, 772, 768)
    shares = [alignment_share(odd_fours._replace(precision=name)) for name in ("fp32", "tf32", "bf16", "fp8")]
    assert shares == [1.0, 0.9, 0.5, 0.5]  # 32-bit products do not run on tensor cores


def test_a_vocabulary_off_the_grid_costs_what_was_measured() -> None:
    # LLMs-from-scratch, ch05/10: three products of the head take 8.8 ms longer with 50,257 words than with 50,304
    def head(words: int) -> float:
        forward, inputs = product(8192, words, 768), product(8192, 768, words)
        weights = product(words, 768, 8192)._replace(phase=Phase.WEIGHT_GRADIENT)
        return sum(operation_time(each, A100) for each in (forward, inputs, weights))

    # 20 %: part of what was measured are the loads of the loss, which no product explains
    assert head(50257) - head(50304) == pytest.approx(8.8e-3, rel=0.2)


def test_a_smaller_tile_is_taken_where_it_fills_the_last_wave_better() -> None:
    one_tile = A100.model_copy(update={"matrix": A100.matrix.model_copy(update={"halves_tiles": False})})
    narrow, large = product(2048, 2048, 8192), product(16384, 16384, 8192)
    assert rate(narrow, A100) > 1.2 * rate(narrow, one_tile)
    assert rate(large, A100) == pytest.approx(rate(large, one_tile), rel=0.02)


def test_padding_of_a_tile_costs_its_arithmetic() -> None:
    full, cut = product(128 * 128, 8192, 8192), product(128 * 128 - 120, 8192, 8192)
    assert operation_time(cut, A100) == pytest.approx(operation_time(full, A100), rel=0.01)


def test_more_boards_have_a_slower_slowest() -> None:
    shares = [slowest_of(H100, boards).matrix.efficiency / H100.matrix.efficiency for boards in (1, 8, 1024)]
    # expected largest of 8 and of 1,024 normal values: 1.42 and 3.25 standard deviations
    assert shares == pytest.approx([1.0, 1 - 1.43 * 0.0175, 1 - 3.23 * 0.0175], abs=5e-4)
    alike = H100.model_copy(update={"matrix": H100.matrix.model_copy(update={"spread": 0.0})})
    assert slowest_of(alike, 1024) == alike


def test_a_slow_board_of_a_light_stage_delays_nobody() -> None:
    def slowness(boards: int, loads: tuple[float, ...] = (1.0,)) -> float:
        return 1.0 - slowest_of(H100, boards, loads).matrix.efficiency / H100.matrix.efficiency

    assert slowness(64, (3.0,) * 16) == pytest.approx(slowness(1024), rel=1e-6)
    assert slowness(64, (1.0,) * 15 + (3.0,)) == pytest.approx(slowness(64), rel=2e-3)
    between = [slowness(64, (1.0,) * 15 + (heavy,)) for heavy in (1.0, 1.01, 1.03, 1.1)]
    assert between == sorted(between, reverse=True)


def test_what_a_pipeline_waits_for_is_the_mean_over_random_boards() -> None:
    loads, boards, spread = np.array([1.0, 1.0, 1.02, 0.97]), 16, 0.0175
    drawn = stream(0, "boards").normal(0.0, spread, (20_000, len(loads), boards))
    expected = ((1.0 + drawn.max(axis=2)) * loads).max(axis=1).mean() / loads.max()
    matrix = H100.matrix.model_copy(update={"spread": spread})
    slowest = slowest_of(H100.model_copy(update={"matrix": matrix}), boards, tuple(loads))
    assert 1.0 - slowest.matrix.efficiency / matrix.efficiency == pytest.approx(expected - 1.0, rel=0.02)


def test_a_memory_bound_operation_does_not_wait_for_the_slowest_board() -> None:
    copy = product(1, 1, 1)._replace(kind="elementwise", flops=0.0, bytes_moved=1e9)
    assert operation_time(copy, slowest_of(H100, 4096)) == operation_time(copy, H100)


def test_blocking_launches_hide_nothing_of_what_the_host_needs() -> None:
    path = ROOT / "experiments" / "sc21-1.7b.yaml"
    usual, blocking = (
        simulate(load_experiment(path, [f"software.blocking_launches={flag}"]).experiment).step.breakdown_s
        for flag in ("false", "true")
    )
    layers, kernels, passes = 24, 15, 3  # at least fifteen kernels forward, again before and as many in the backward
    assert usual["other"] < 1e-3
    assert blocking["other"] > layers * kernels * passes * 50e-6
    assert blocking["compute"] == pytest.approx(usual["compute"])


def test_elementwise_arithmetic_without_a_rate_of_its_own_takes_the_slowest_told() -> None:
    only = H100.matrix.peak.model_copy(update=dict.fromkeys(("fp32", "tf32"), None))
    bare = H100.model_copy(
        update={
            "vector": type(H100.vector)(),
            "matrix": H100.matrix.model_copy(update={"peak": only}),
        }
    )
    drawing = product(1, 1, 1, precision="fp32")._replace(kind="elementwise", flops=1e12, bytes_moved=0.0, kernels=0)
    assert operation_time(drawing, bare) == pytest.approx(1e12 / min(only.fp16 or 0.0, only.bf16 or 0.0))
