"""Operation sequences of one rank: alone in one go, or cut where they meet others.

Both forms follow one rule: operations run in order on the processor; a collective is issued where
it stands, runs in the order of its communicator, and is waited for at once or `hidden_by`
operations later; while a collective runs beside it, computation is slower by the share of
processors that the collective takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Timed(NamedTuple):
    """An operation with its time: computation `seconds`, or a collective of `latency` and `size` bytes."""

    name: str
    category: str  # breakdown field
    seconds: float  # computation, or latency + size/rate of the collective when alone
    group: str = ""  # "" for computation
    carrier: str = ""  # whose flow moves the bytes of a collective: the key of a flow class of its group
    latency: float = 0.0
    size: float = 0.0
    hidden_by: int = 0
    joules: float = 0.0  # of computation, static power included
    phase: str = ""  # of computation: what the energy counts under
    collective: str = ""  # its kind, with the first of its legs
    message: float = 0.0  # of that [B], in the convention of `Operation`


@dataclass
class SpentEnergy:
    """Energy of computations by phase [J], and the seconds they need at full speed."""

    busy: float = 0.0
    joules: dict[str, float] = field(default_factory=dict)

    def add(self, operation: Timed) -> None:
        """Count a computation."""
        if operation.phase:
            self.busy += operation.seconds
            self.joules[operation.phase] = self.joules.get(operation.phase, 0.0) + operation.joules


@dataclass
class Alone:
    """A sequence run with nothing beside it: seconds, exposed seconds by category, bytes by group."""

    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    comm: float = 0.0  # collectives, hidden or not
    sizes: dict[str, float] = field(default_factory=dict)  # carrier -> bytes
    operations: int = 0
    spent: SpentEnergy = field(default_factory=SpentEnergy)

    def add(self, other: Alone, times: int) -> None:
        """Append `times` copies of `other`."""
        self.seconds += times * other.seconds
        self.comm += times * other.comm
        self.operations += times * other.operations
        self.spent.busy += times * other.spent.busy
        tables = (self.parts, other.parts), (self.sizes, other.sizes), (self.spent.joules, other.spent.joules)
        for mine, theirs in tables:
            for key, value in theirs.items():
                mine[key] = mine.get(key, 0.0) + times * value


def run_alone(operations: Sequence[Timed], slowdown: float) -> Alone:
    """Time of a sequence whose collectives meet no other traffic."""
    result = Alone(operations=len(operations))
    now, until = 0.0, 0.0  # clock; end of the last collective that runs beside
    free: dict[str, float] = {}
    waits: dict[int, list[tuple[float, str]]] = {}
    for position, operation in enumerate(operations):
        for end, category in waits.pop(position, ()):
            now = _expose(result, now, end, category)
        if not operation.group:
            busy = stretched(operation.seconds, until - now, slowdown)
            result.parts[operation.category] = result.parts.get(operation.category, 0.0) + busy
            now += busy
            result.spent.add(operation)
            continue
        end = max(now, free.get(operation.group, 0.0)) + operation.seconds
        free[operation.group] = end
        result.comm += operation.seconds
        result.sizes[operation.carrier] = result.sizes.get(operation.carrier, 0.0) + operation.size
        if operation.hidden_by:
            until = max(until, end)
            waits.setdefault(position + 1 + operation.hidden_by, []).append((end, operation.category))
        else:
            now = _expose(result, now, end, operation.category)
    for at in sorted(waits):
        for end, category in waits[at]:
            now = _expose(result, now, end, category)
    result.seconds = now
    return result


def _expose(result: Alone, now: float, end: float, category: str) -> float:
    if end > now:
        result.parts[category] = result.parts.get(category, 0.0) + end - now
    return max(now, end)


def stretched(work: float, beside: float, slowdown: float) -> float:
    """Seconds for `work` seconds of computation when a collective runs beside its first `beside` seconds."""
    if beside <= 0 or slowdown == 0:
        return work
    speed = 1.0 - slowdown
    return work / speed if work <= beside * speed else beside + work - beside * speed


@dataclass(frozen=True)
class Cut:
    """One step of a cut sequence: collectives to wait for, then computation, then one collective.

    waits: numbers of earlier collectives of the sequence. parts: seconds of computation by category, and
    spent: its energy. issue: the collective issued afterwards (None at the end).
    """

    waits: tuple[int, ...]
    parts: dict[str, float]
    spent: SpentEnergy
    issue: Timed | None


def cut(operations: Sequence[Timed]) -> list[Cut]:
    """Steps between the points where a sequence issues or awaits a collective."""
    steps: list[Cut] = []
    waits: tuple[int, ...] = ()
    parts: dict[str, float] = {}
    spent = SpentEnergy()
    due: dict[int, list[int]] = {}
    issued = 0
    for position, operation in enumerate([*operations, None]):
        arrived = [number for at in sorted(due) if at <= position or operation is None for number in due.pop(at)]
        if arrived:
            if parts or waits:
                steps.append(Cut(waits, parts, spent, None))
            waits, parts, spent = tuple(arrived), {}, SpentEnergy()
        if operation is None:
            steps.append(Cut(waits, parts, spent, None))
            break
        if not operation.group:
            parts[operation.category] = parts.get(operation.category, 0.0) + operation.seconds
            spent.add(operation)
            continue
        steps.append(Cut(waits, parts, spent, operation))
        waits, parts, spent = (), {}, SpentEnergy()
        due.setdefault(position + 1 + operation.hidden_by, []).append(issued)
        issued += 1
    return steps
