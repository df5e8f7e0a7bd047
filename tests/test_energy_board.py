"""What one accelerator draws: limits, clocks, and operations bound by arithmetic or memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.devices.power import Board, Work
from sim.graph.operation import Operation
from sim.inputs.board import lowest_limit
from sim.inputs.energy import PowerSetting
from sim.inputs.load import load_definition
from sim.inputs.records import Accelerator


def board(name: str, **setting: float) -> Board:
    record = load_definition("accelerator", name)
    assert isinstance(record, Accelerator)
    return Board(record, PowerSetting.from_si(setting))


PRODUCT = Operation("product", "matmul", flops=2.0 * 8192**3, bytes_moved=6 * 8192.0**2, m=8192, n=8192, k=8192)
STREAM = Operation("stream", "elementwise", bytes_moved=4e9)
NAMES = ("h100-sxm", "a100-sxm-80gb", "b200", "v100-sxm2-16gb", "a40", "tpu-v4", "h200")


def power(work: Work) -> float:
    return work.joules / work.seconds


@pytest.mark.parametrize("name", NAMES)
def test_large_products_come_near_the_limit_and_streams_stay_below(name: str) -> None:
    free = board(name)
    precision = "fp16" if free.accelerator.matrix.peak.bf16 is None else "bf16"
    product = power(free.run(Operation("p", "matmul", PRODUCT.flops, 6e8, precision, m=8192, n=8192, k=8192)))
    tdp = free.accelerator.power.tdp
    assert 0.85 * tdp < product <= tdp * (1 + 1e-6)
    assert free.idle < free.waiting < power(free.run(STREAM)) < product


@pytest.mark.parametrize("name", NAMES)
def test_the_stock_limit_changes_nothing(name: str) -> None:
    free, limited = board(name), board(name, limit=board(name).accelerator.power.tdp)
    for operation in (STREAM, Operation("vector", "elementwise", flops=1e9, bytes_moved=1.0, precision="fp32")):
        assert limited.run(operation) == free.run(operation)


def test_a_limit_slows_arithmetic_and_spares_memory() -> None:
    free, limited = board("h100-sxm"), board("h100-sxm", limit=560.0)
    assert limited.run(STREAM).seconds == free.run(STREAM).seconds
    slow, fast = limited.run(PRODUCT), free.run(PRODUCT)
    assert slow.seconds > 1.05 * fast.seconds
    assert slow.joules < fast.joules
    assert power(slow) == pytest.approx(560.0, rel=1e-6)


def test_energy_of_a_product_is_least_inside_the_range_of_limits() -> None:
    joules = {limit: board("h100-sxm", limit=float(limit)).run(PRODUCT).joules for limit in range(150, 701, 25)}
    best = min(joules, key=lambda limit: joules[limit])
    assert 0.5 <= best / 700 <= 0.75
    assert joules[150] > 1.1 * joules[best]
    assert joules[700] > 1.1 * joules[best]


def test_a_lower_clock_saves_energy_and_takes_time() -> None:
    free, clocked = board("a100-sxm-80gb"), board("a100-sxm-80gb", clock=1.0e9)
    assert clocked.run(PRODUCT).seconds > free.run(PRODUCT).seconds
    assert clocked.run(PRODUCT).joules < free.run(PRODUCT).joules
    assert clocked.run(STREAM).seconds == free.run(STREAM).seconds
    assert clocked.waiting < free.waiting


@given(st.floats(1e6, 1e15), st.floats(1e3, 1e11), st.floats(100.0, 700.0), st.floats(100.0, 700.0))
def test_power_stays_within_the_limit_and_time_falls_with_it(flops: float, moved: float, a: float, b: float) -> None:
    operation = Operation("any", "attention", flops=flops, bytes_moved=moved, precision="bf16", n=2048, k=128)
    low, high = sorted((a, b))
    tight, loose = board("h100-sxm", limit=low), board("h100-sxm", limit=high)
    assert power(tight.run(operation)) <= low * (1 + 1e-6)
    assert tight.run(operation).seconds >= loose.run(operation).seconds * (1 - 1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.5, 0.6, 0.8])
def test_memory_bound_work_keeps_to_a_limit_by_pausing(name: str, share: float) -> None:
    free, limited = board(name), board(name, limit=share * board(name).accelerator.power.tdp)
    kept = limited.setting.limit
    assert kept is not None
    assert power(limited.run(STREAM)) <= kept * (1 + 1e-6)
    assert limited.run(STREAM).seconds >= free.run(STREAM).seconds
    if power(free.run(STREAM)) > kept:
        assert power(limited.run(STREAM)) == pytest.approx(kept, rel=1e-6)
    else:
        assert limited.run(STREAM) == free.run(STREAM)


def test_a_board_that_sends_keeps_room_for_it_while_it_waits() -> None:
    record = board("h100-sxm").accelerator
    setting = PowerSetting.from_si({"limit": 160.0})
    sending = Board(record, setting, sends=384e9)
    assert sending.waiting + 384e9 * sending.per_byte_sent == pytest.approx(160.0, rel=1e-6)
    assert Board(record, PowerSetting(), sends=384e9).waiting == board("h100-sxm").waiting


def test_the_lowest_limit_is_that_of_the_slowest_clock_and_of_sending() -> None:
    record = board("h100-sxm").accelerator
    lowest = lowest_limit(record, 384e9)
    assert record.power.idle < lowest
    at_lowest = Board(record, PowerSetting.from_si({"limit": lowest}), sends=384e9)
    assert at_lowest.waiting + 384e9 * at_lowest.per_byte_sent == pytest.approx(lowest, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
@given(st.floats(1e6, 1e15), st.floats(1e3, 1e11))
def test_nothing_draws_more_than_the_board_limit(name: str, flops: float, moved: float) -> None:
    precision = "fp16" if board(name).accelerator.matrix.peak.bf16 is None else "bf16"
    operation = Operation("any", "matmul", flops, moved, precision, m=8192, n=8192, k=8192)
    assert power(board(name).run(operation)) <= board(name).accelerator.power.tdp * (1 + 1e-6)


def test_polling_keeps_to_the_limit_too() -> None:
    assert board("h100-sxm", limit=120.0).waiting == pytest.approx(120.0, rel=1e-6)
    assert board("h100-sxm", limit=300.0).waiting == board("h100-sxm").waiting
