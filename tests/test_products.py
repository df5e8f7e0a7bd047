"""Matrix products on an accelerator: published rates, tiles, alignment, and the spread of boards."""

from __future__ import annotations

import numpy as np
import pytest

from sim.ask.run.simulate import simulate
from sim.devices.boards import slowest_of
from sim.devices.compute import operation_time
from sim.devices.products import is_misaligned
from sim.graph.operation import Operation
from sim.inputs.load import load_experiment
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


def test_heads_that_start_between_loads_fall_to_the_vector_units() -> None:
    wide, odd = product(2048, 2048, 112, batch=32), product(2048, 2048, 108, batch=32)
    assert (is_misaligned(wide), is_misaligned(odd)) == (False, True)
    assert not is_misaligned(product(2048, 50257, 1024))  # one matrix: libraries cope
    assert rate(odd, A100) < A100.vector.fp32 < rate(wide, A100)  # type: ignore[operator]


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
