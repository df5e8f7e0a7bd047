"""The unit table: what is read, what is refused and with which way out, and what people see."""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from sim.record import Record
from sim.rng import stream
from sim.units import (
    CARBON_INTENSITY,
    COUNT,
    DATA,
    DATA_RATE,
    DIMENSIONS,
    ENERGY,
    ENERGY_PRICE,
    FREQUENCY,
    MONEY,
    POWER,
    SI,
    TIME,
    TIME_PRICE,
    WORK,
    WORK_RATE,
    BytesPerSecond,
    Count,
    Dimension,
    Fraction,
    QuantityError,
    Seconds,
    format_quantity,
    parse_count,
    parse_fraction,
    parse_quantity,
    spell_quantity,
)

READ = [
    ("1 B", DATA, 1),
    ("8 b", DATA, 1),
    ("8 bit", DATA, 1),
    ("1 kB", DATA, 1e3),
    ("1 KiB", DATA, 1024),
    ("80 GB", DATA, 80e9),
    ("80 GiB", DATA, 80 * 2**30),
    ("80 Gb", DATA, 10e9),
    ("1.5TiB", DATA, 1.5 * 2**40),
    ("400 Gb/s", DATA_RATE, 50e9),
    ("400 Gbit/s", DATA_RATE, 50e9),
    ("400 Gbps", DATA_RATE, 50e9),
    ("50 GB/s", DATA_RATE, 50e9),
    ("1 GiB/s", DATA_RATE, 2**30),
    ("3.35 TB/s", DATA_RATE, 3.35e12),
    ("2 us", TIME, 2e-6),
    ("2 µs", TIME, 2e-6),
    ("2 μs", TIME, 2e-6),
    (" 2.5e3  ns ", TIME, 2.5e-6),
    ("32 s", TIME, 32),
    ("2 min", TIME, 120),
    ("1 h", TIME, 3600),
    ("5 days", TIME, 432000),
    ("1 year", TIME, 365.25 * 86400),
    ("312 TFLOP/s", WORK_RATE, 312e12),
    ("312 TFLOPS", WORK_RATE, 312e12),
    ("1 ZFLOP", WORK, 1e21),
    ("700 W", POWER, 700),
    ("10.2 kW", POWER, 10.2e3),
    ("1 kWh", ENERGY, 3.6e6),
    ("1.41 GHz", FREQUENCY, 1.41e9),
    ("2 kUSD", MONEY, 2000),
    ("0.09 USD/kWh", ENERGY_PRICE, 0.09 / 3.6e6),
    ("3.6 USD/h", TIME_PRICE, 1e-3),
    ("360 g/kWh", CARBON_INTENSITY, 1e-7),
    ("0", TIME, 0),
    (0, DATA_RATE, 0),
    (0.0, POWER, 0),
]

REFUSED = [
    ("400 gb/s", DATA_RATE, "did you mean 400 GB/s or 400 Gb/s?"),
    ("80 gb", DATA, "did you mean 80 GB or 80 Gb?"),
    ("80 gib", DATA, "80 GiB"),
    ("2 US", TIME, "did you mean 2 us?"),
    ("400 Gb", DATA_RATE, "is a data size; a data rate is wanted; did you mean 400 Gb/s?"),
    ("2 us", DATA_RATE, "is a time"),
    ("5 W", TIME, "is a power"),
    (2, TIME, "2 has no unit; a time is wanted; write for instance 2 us or 2 s"),
    ("2", TIME, "has no unit"),
    (400, DATA_RATE, "400 Gb/s or 400 GB/s"),
    ("-2 us", TIME, "is negative"),
    ("nan s", TIME, "is not a time"),
    ("1e999 s", TIME, "is not finite"),
    (math.inf, TIME, "is not finite"),
    (math.nan, TIME, "is not finite"),
    (True, TIME, "true is not a time"),
    (None, TIME, "an empty value"),
    ([], TIME, "a list"),
    ({}, TIME, "a mapping"),
    ("two us", TIME, "write it like 2 us"),
    ("1,000 us", TIME, "is not a unit of time"),
    ("2 us 3", TIME, "is not a unit of time"),
    ("٣ us", TIME, "is not a time"),
    ("", TIME, "is not a time"),
    ("x" * 5000, TIME, "..."),
]

NO_COUNTS: list[object] = [
    *(2.5, "2.5", "1.0005k", -1, "-1", "4K", "1e-3", "1e30", "1e999999999", 10**6000, math.nan, math.inf),
    *(True, None, "many", "1_000", "1,000", "0x10", "9" * 5000, [], {}, "", "B", "300 GB"),
]


@pytest.mark.parametrize(("text", "dimension", "value"), READ, ids=lambda item: str(item)[:20])
def test_quantity_is_read(text: object, dimension: Dimension, value: float) -> None:
    assert parse_quantity(text, dimension) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(("text", "dimension", "words"), REFUSED, ids=lambda item: str(item)[:20])
def test_quantity_is_refused(text: object, dimension: Dimension, words: str) -> None:
    with pytest.raises(QuantityError) as caught:
        parse_quantity(text, dimension)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (96, 96),
        ("96", 96),
        (1e9, 10**9),
        ("1e9", 10**9),
        ("300e9", 300 * 10**9),
        ("300B", 300 * 10**9),
        ("300 B", 300 * 10**9),
        ("1.5T", 1500 * 10**9),
        ("8.03B", 8030 * 10**6),
        ("4k", 4000),
        ("2M", 2 * 10**6),
        (0, 0),
    ],
)
def test_count_is_read(text: object, value: int) -> None:
    assert parse_count(text) == value
    assert type(parse_count(text)) is int


@pytest.mark.parametrize(
    "text",
    NO_COUNTS,
    ids=lambda item: str(type(item)) if isinstance(item, int) else str(item)[:20],
)
def test_count_is_refused(text: object) -> None:
    with pytest.raises(QuantityError):
        parse_count(text)


def test_fraction_is_a_number_or_a_percentage() -> None:
    assert [parse_fraction(text) for text in (0, 1, 0.45, "0.45", "45 %", "45%", "100 %")] == [0, 1] + [0.45] * 4 + [1]
    for text in (1.1, -0.1, "120 %", math.nan, True, None, "half", "45 percent", 10**400, "1 B"):
        with pytest.raises(QuantityError):
            parse_fraction(text)


@given(st.data(), st.sampled_from(DIMENSIONS))
def test_spelling_is_read_back_exactly(data: st.DataObject, dimension: Dimension) -> None:
    value = data.draw(st.floats(min_value=dimension.least, max_value=dimension.most))
    assert parse_quantity(spell_quantity(value, dimension), dimension) == value


@given(st.data(), st.sampled_from(DIMENSIONS))
def test_text_for_people_is_close(data: st.DataObject, dimension: Dimension) -> None:
    least, most = (max(dimension.least, 1e-9), min(dimension.most, 1e24))
    value = data.draw(st.floats(min_value=1.01 * least, max_value=0.99 * most))
    assert parse_quantity(format_quantity(value, dimension), dimension) == pytest.approx(value, rel=6e-3)


@given(st.text(max_size=12), st.sampled_from(DIMENSIONS))
def test_any_text_is_read_or_refused(text: str, dimension: Dimension) -> None:
    with suppress(QuantityError):
        assert math.isfinite(parse_quantity(text, dimension))


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (1.234e12, DATA_RATE, "1.23 TB/s"),
        (999.9e9, DATA_RATE, "1 TB/s"),
        (32.1, TIME, "32.1 s"),
        (90, TIME, "90 s"),
        (5.4 * 86400, TIME, "5.4 days"),
        (2.5e-6, TIME, "2.5 us"),
        (0, TIME, "0 s"),
        (-3, TIME, "-3 s"),
        (80 * 2**30, DATA, "80 GiB"),
        (312e12, WORK_RATE, "312 TFLOP/s"),
        (0.08 / 3.6e6, ENERGY_PRICE, "0.08 USD/kWh"),
        (1024, COUNT, "1024"),
        (math.inf, TIME, "inf s"),
    ],
)
def test_format_for_people(value: float, dimension: Dimension, text: str) -> None:
    assert format_quantity(value, dimension) == text


def test_units_of_different_dimensions_have_different_spellings() -> None:
    spellings = [unit for dimension in DIMENSIONS for unit in dimension.units]
    assert len(spellings) == len(set(spellings))


def test_examples_of_every_dimension_are_read() -> None:
    for dimension in DIMENSIONS:
        assert all(parse_quantity(example, dimension) > 0 for example in dimension.examples)


class Sample(Record):
    rate: BytesPerSecond = Field(gt=0)
    wait: Seconds | None = Field(default=None, ge=0)
    share: Fraction = Field(default=0.5, gt=0)
    number: Count = Field(default=1, ge=1, le=8)


def test_bounds_are_about_decoded_values() -> None:
    for fields in ({"rate": "0 B/s"}, {"rate": "1 B/s", "share": 0}, {"rate": "1 B/s", "number": "1k"}):
        with pytest.raises(ValidationError):
            Sample.model_validate(fields)


def test_records_go_round_through_si_numbers() -> None:
    sample = Sample.model_validate({"rate": "400 Gb/s", "wait": "2 us", "share": "45 %", "number": 4})
    assert Sample.model_validate(sample.model_dump(), context=SI) == Sample.from_si(sample.model_dump()) == sample
    with pytest.raises(ValidationError):
        Sample.model_validate(sample.model_dump())
    with pytest.raises(ValidationError):
        Sample.from_si({"rate": math.nan})


def test_schema_gives_pattern_and_examples() -> None:
    text = Sample.model_json_schema()["properties"]["rate"]["anyOf"][0]
    assert "400 Gb/s" in text["examples"]
    assert "Gb/s" in text["pattern"]


def test_streams_depend_on_seed_and_name_alone() -> None:
    first = stream(1, "failures/gpu").random(4)
    stream(1, "other").random(100)
    assert np.array_equal(first, stream(1, "failures/gpu").random(4))
    assert not np.array_equal(first, stream(2, "failures/gpu").random(4))
    assert not np.array_equal(first, stream(1, "failures/nic").random(4))


def test_streams_are_the_same_in_every_process() -> None:
    assert stream(42, "failures/gpu").integers(0, 2**32, 3).tolist() == [589236685, 271408304, 554697685]


@pytest.mark.parametrize(
    ("text", "dimension", "meant"),
    [
        ("50GBps", DATA_RATE, "50 GB/s"),
        ("50 gBps", DATA_RATE, "50 GB/s"),
        ("50 GiBps", DATA_RATE, "50 GiB/s"),
        ("50 GBPS", DATA_RATE, "50 Gbps or 50 GB/s or 50 Gb/s"),
        ("50 gb/s", DATA_RATE, "50 GB/s or 50 Gb/s"),
        ("512 KB", DATA, "512 kB"),
        ("512 Kb", DATA, "512 kb"),
        ("30m", TIME, "30 min or 30 ms"),
        ("30 minutes", TIME, "30 min"),
        ("1 mus", TIME, "1 us"),
        ("1 hr", TIME, "1 h"),
    ],
)
def test_suggests_the_unit_that_is_meant(text: str, dimension: Dimension, meant: str) -> None:
    with pytest.raises(QuantityError) as told:
        parse_quantity(text, dimension)
    assert told.value.suggestion == f"did you mean {meant}?"


@pytest.mark.parametrize(("text", "dimension"), [("3 months", TIME), ("5 Gigabit", DATA)])
def test_suggests_nothing_that_is_not_the_same(text: str, dimension: Dimension) -> None:
    with pytest.raises(QuantityError) as told:
        parse_quantity(text, dimension)
    assert "did you mean" not in told.value.suggestion


@pytest.mark.parametrize("dimension", [DATA, DATA_RATE], ids=["data", "rate"])
def test_no_suggestion_takes_bytes_for_bits(dimension: Dimension) -> None:
    for unit in dimension.units:
        for wrong in {unit.replace("/s", "ps"), unit.replace("k", "K"), unit.replace("G", "g"), f"{unit}s"}:
            if wrong in dimension.units or wrong.islower() or "B" not in wrong:
                continue
            with pytest.raises(QuantityError) as told:
                parse_quantity(f"8 {wrong}", dimension)
            assert "b/s" not in told.value.suggestion.replace("400 Gb/s", ""), wrong
            assert "bps" not in told.value.suggestion, wrong
