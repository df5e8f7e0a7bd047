"""Numbers for people: four significant digits, a unit, thousands separators."""

from __future__ import annotations

from sim.units import DATA, DATA_RATE, ENERGY, MASS, MONEY, POWER, TIME, Dimension

Ladder = tuple[tuple[float, str], ...]  # (size of the unit, its name), largest first


def _ladder(dimension: Dimension, *units: str) -> Ladder:
    return tuple((dimension.units[unit], unit) for unit in units)


DURATION = _ladder(TIME, "days", "h", "min", "s", "ms", "us", "ns")
STEP = _ladder(TIME, "s", "ms", "us", "ns")  # a step is told in seconds, however long
SIZE = _ladder(DATA, "TiB", "GiB", "MiB", "KiB", "B")
WORK = _ladder(ENERGY, "GWh", "MWh", "kWh", "Wh")
WATTS = _ladder(POWER, "GW", "MW", "kW", "W")
MASSES = _ladder(MASS, "t", "kg", "g")
SUMS = _ladder(MONEY, "MUSD", "kUSD", "USD")
TRAFFIC = _ladder(DATA, "PB", "TB", "GB", "MB", "kB", "B")


def digits(value: float) -> str:
    """Four significant digits, never an exponent: 31.42, 1,024, 100,213."""
    for limit, places in ((1000.0, 0), (100.0, 1), (10.0, 2)):
        if abs(value) >= limit:
            return f"{value:,.{places}f}"
    return f"{value:.3f}"


def pick(value: float, ladder: Ladder) -> tuple[float, str]:
    """The largest unit of the ladder that `value` reaches; the smallest one for less."""
    return next((rung for rung in ladder if abs(value) >= rung[0]), ladder[-1])


def scaled(value: float, ladder: Ladder) -> str:
    """`value` in the fitting unit of the ladder."""
    if value == 0:
        return f"0 {ladder[-1][1]}".strip()
    size, unit = pick(value, ladder)
    return f"{digits(value / size)} {unit}".strip()


def duration(seconds: float) -> str:
    """A span of time, in days at most."""
    return scaled(seconds, DURATION)


def step_time(seconds: float) -> str:
    """The time of a step, in seconds at most."""
    return scaled(seconds, STEP)


def size(n_bytes: float) -> str:
    """An amount of memory in binary units."""
    return scaled(n_bytes, SIZE)


def traffic(n_bytes: float) -> str:
    """An amount of data on a network in decimal units."""
    return scaled(n_bytes, TRAFFIC)


def count(n: float) -> str:
    """A whole number with thousands separators."""
    return f"{n:,.0f}"


def parameters(n: float) -> str:
    """Weights of a model, in billions or millions."""
    return f"{digits(n / 1e9)} B parameters" if n >= 1e9 else f"{digits(n / 1e6)} M parameters"


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def signed_percent(share: float) -> str:
    """A relative difference with its sign."""
    return f"{100 * share:+.1f} %"


def bit_rate(bytes_per_second: float) -> str:
    """The rate of a cable as its label says it: in bits."""
    factor = DATA_RATE.units["Gb/s"]
    return f"{bytes_per_second / factor:g} Gb/s"


def energy(kwh: float) -> str:
    """An amount of energy in watt hours."""
    return scaled(kwh * ENERGY.units["kWh"], WORK)


def power(watts: float) -> str:
    """A power."""
    return scaled(watts, WATTS)


def carbon(kilograms: float) -> str:
    """A mass."""
    return scaled(kilograms, MASSES)


def money(usd: float) -> str:
    """A sum of money, in millions where it is large."""
    return scaled(usd, SUMS)


def throughput(samples_per_s: float, tokens_per_s: float | None) -> str:
    """The rate of a training: tokens where samples have them."""
    return f"{digits(samples_per_s)} samples/s" if tokens_per_s is None else f"{digits(tokens_per_s)} tokens/s"
