"""What an accelerator draws, and how fast it runs under a power limit.

P = static + clocked + energy of the operation over its time. The static part (idle) does not depend
on the clock. The clocked part and the energy of arithmetic go with f V(f)^2 and V(f)^2, where the
core voltage falls in line with the clock down to a floor (`Voltage`). Device memory has a clock and
a voltage of its own. A board runs at the highest clock at which it stays within its limit, so an
operation bound by memory hardly feels a limit that slows arithmetic. Where the slowest clock still
draws too much, the board pauses between bursts: the operation takes as long as its energy asks for.
While it waits it keeps room for its transfers. Rates of a profile were measured at the stock limit;
they are scaled by the clock relative to the one the board keeps there.
Temperature and what it does to leakage are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from sim.devices.compute import Times, matrix_rate, operation_times, sustained_share
from sim.devices.roots import highest_within
from sim.graph.operation import Operation
from sim.inputs.board import base_power, byte_energy, clocked_power, sent_byte_energy, voltage
from sim.inputs.energy import PowerSetting
from sim.inputs.records import Accelerator

MATRIX, MEMORY = "matrix", "memory"  # phases of computation
KNOWN_OPERATIONS = 20_000  # that a board remembers
CLOSE = 1 + 1e-9  # over a limit within what the clock is found to


class Work(NamedTuple):
    """One operation on one accelerator: how long, how much energy (static part included), in which phase."""

    seconds: float
    joules: float
    phase: str


@dataclass(frozen=True, eq=False)
class Board:
    """An accelerator with the limits its operator set; clocks are shares of the highest.

    sends: most bytes that it sends in a second [B/s].
    """

    accelerator: Accelerator
    setting: PowerSetting
    attention_kernel: str = "cudnn"
    sends: float = 0.0
    # operations of a model are few, and priced for each pass
    known: dict[tuple[Operation, float], Work] = field(default_factory=dict, compare=False, repr=False)

    @property
    def idle(self) -> float:
        """Power with nothing running [W]."""
        return self.accelerator.power.idle

    @cached_property  # a search for the clock, read for each operation
    def waiting(self) -> float:
        """Power while a resident kernel polls for data [W]; with that of a transfer it is within the limit."""
        limit = self.accelerator.power.tdp
        if self.setting.limit is not None:
            limit = self.setting.limit - self.sends * self.per_byte_sent
        return self.base(self._highest(self.base, self._allowed, limit))

    @property
    def per_byte(self) -> float:
        """Energy of a byte of device memory, read or written [J/B]."""
        return byte_energy(self.accelerator)

    @property
    def per_byte_sent(self) -> float:
        """Energy of a byte that leaves and one that arrives [J/B]."""
        return sent_byte_energy(self.accelerator)

    def base(self, clock: float) -> float:
        """Static and clocked part at a core clock [W]."""
        return base_power(self.accelerator.power, clock)

    def drawn(self, clock: float, energies: tuple[float, float], seconds: float) -> float:
        """Power at a core clock while an operation with `energies()` takes `seconds` [W]."""
        arithmetic, memory = energies
        clocked = self._clocked * clock + arithmetic / seconds
        return self.idle + clocked * voltage(self.accelerator.power.voltage, clock) ** 2 + memory / seconds

    @cached_property  # read for each operation
    def _clocked(self) -> float:
        return clocked_power(self.accelerator.power)

    def run(self, operation: Operation, speed: float = 1.0) -> Work:
        """Time and energy of a computation; `speed` is that of the accelerator relative to a healthy one."""
        key = operation, speed
        work = self.known.get(key)
        if work is None:
            if len(self.known) >= KNOWN_OPERATIONS:
                self.known.clear()
            self.known[key] = work = self._run(operation, speed)
        return work

    def _run(self, operation: Operation, speed: float) -> Work:
        times = operation_times(operation, self.accelerator, self.attention_kernel)
        if times.at() == 0:
            return Work(0.0, 0.0, MATRIX)
        energies = self._within_tdp(self.energies(operation), times.at())
        stock = clock = self._stock_clock(times.at(), energies)
        if self._limited:
            clock = self._set_clock(times, stock, energies)
        seconds = self._within_limit(clock, times.at(stock / clock), energies) / speed
        phase = MEMORY if operation.kind == "elementwise" else MATRIX
        return Work(seconds, self.drawn(clock, energies, seconds) * seconds, phase)

    def energies(self, operation: Operation) -> tuple[float, float]:
        """Joules of arithmetic at the highest clock, and of memory traffic."""
        power = self.accelerator.power
        if operation.kind == "elementwise":
            arithmetic = operation.flops * power.vector
        else:
            arithmetic = operation.flops * self._per_flop(operation.precision)
        return arithmetic, operation.bytes_moved * self.per_byte

    def _within_tdp(self, energies: tuple[float, float], seconds: float) -> tuple[float, float]:
        """The same, less where it takes more than the board has at its slowest clock: its rates were measured so."""
        slowest, tdp = self.accelerator.power.voltage.slowest, self.accelerator.power.tdp
        drawn, base = self.drawn(slowest, energies, seconds), self.base(slowest)
        share = (tdp - base) / (drawn - base) if drawn > tdp else 1.0
        return share * energies[0], share * energies[1]

    def _per_flop(self, precision: str) -> float:
        """Energy of matrix arithmetic [J/FLOP]; unless given, the sustained rate draws the board limit."""
        known: float | None = getattr(self.accelerator.power.matrix, precision)
        if known is not None:
            return known
        rate = matrix_rate(precision, self.accelerator) * sustained_share(precision, self.accelerator)
        return max(0.0, self.accelerator.power.tdp - self.base(1.0)) / rate

    @property
    def _limited(self) -> bool:
        return self.setting.limit is not None or self.setting.clock is not None

    @property
    def _allowed(self) -> float:
        """Highest clock that the operator allows."""
        highest, wanted = self.accelerator.power.clock, self.setting.clock
        return 1.0 if highest is None or wanted is None else min(1.0, wanted / highest)

    def _stock_clock(self, seconds: float, energies: tuple[float, float]) -> float:
        """Clock at which the board ran when its rates were measured: the highest within its own limit."""
        return self._highest(lambda clock: self.drawn(clock, energies, seconds), 1.0, self.accelerator.power.tdp)

    def _set_clock(self, times: Times, stock: float, energies: tuple[float, float]) -> float:
        """Clock under the limits of the operator; less arithmetic per second also draws less."""
        top = min(stock, self._allowed)
        if self.setting.limit is None:
            return top

        def power(clock: float) -> float:
            return self.drawn(clock, energies, times.at(stock / clock))

        return self._highest(power, top, self.setting.limit)

    def _within_limit(self, clock: float, seconds: float, energies: tuple[float, float]) -> float:
        """Seconds that an operation takes at a clock, longer where the limit gives its energy no other way [s]."""
        limit = self.setting.limit
        if limit is None or self.drawn(clock, energies, seconds) <= limit * CLOSE:
            return seconds
        return (self.drawn(clock, energies, 1.0) - self.base(clock)) / (limit - self.base(clock))

    def _highest(self, power: Callable[[float], float], top: float, limit: float) -> float:
        """The highest clock up to `top` at which `power`, which rises with the clock, is within `limit` [W]."""
        slowest = self.accelerator.power.voltage.slowest
        return highest_within(lambda clock: power(clock) / limit - 1.0, slowest, top)
