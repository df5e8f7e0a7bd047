"""Links shared max-min fairly by flows, on the SimPy clock.

All changes at one instant cause one re-solve of the flows they can touch: the flows that share a
link with a changed flow, directly or through others. Flows elsewhere keep their rate and timer.

A flow that finds nobody near takes one event: its end is set before it has started up, at its rate
alone. If somebody comes near before it is on its links, it is called back and joins them in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial, reduce
from math import inf
from operator import or_
from typing import Any

import numpy as np
from numpy.typing import NDArray
from simpy.core import Environment
from simpy.events import Event

from sim.engine.clock import Settling, Sleeper
from sim.engine.fairness import Floats, Ints, certificate, max_min_rates, remaining
from sim.errors import CertificateError
from sim.ragged import ranges

RESOLVE = 0  # rank at the end of an instant: after every arrival and departure, before whoever looks at the rates
ALIKE = 1e-12  # relative difference of equal rates
Key = tuple[tuple[int, int], ...]  # (flow class, flows of it), sorted


@dataclass(frozen=True)
class Sharing:
    """Who shares links with whom: of each flow class the link classes on its way that can ever be full, of each of
    those the flow classes on it.
    """

    links: tuple[tuple[int, ...], ...]
    flows: tuple[tuple[int, ...], ...]

    def near(self, flow: int) -> frozenset[int]:
        """Flow classes that cross one of its links, itself too."""
        return frozenset(other for link in self.links[flow] for other in self.flows[link])

    def meets(self, flow: int, others: frozenset[int]) -> bool:
        """Whether a flow class crosses a link of one of `others`."""
        return any(not others.isdisjoint(self.flows[link]) for link in self.links[flow])


def nobody_shares(n_flows: int) -> Sharing:
    """As if each flow class had a link to itself."""
    own = tuple((flow,) for flow in range(n_flows))
    return Sharing(own, own)


@dataclass(frozen=True)
class FlowTable:
    """Flow classes and what one flow of a class loads, with all its copies, on one link of a class.

    flow, link: (nnz,) class indices; coefficient: (nnz,); capacity: (n_links,) B/s;
    link_count: (n_links,) links in the class; link_example: (n_links,) one of them, -1 where a class is a limit of its
    flows and no link. Only the first
    `n_shared` link classes can ever be full; the others are there to count bytes. priority: of each class, those of a
    lower number are served first, as if the others were not there; all are alike if it is empty.

    left_out: (n_links,) link classes that do not share rates although they may fill, so that what is on them has to be
    checked (`engine/overload.py`); inside: (nnz,) what of a coefficient on them counts in a row among the shared ones;
    place: (n,) link class of each link of the cluster, -1 without traffic. All three empty if none is left out.
    """

    n_flows: int
    n_shared: int
    flow: Ints
    link: Ints
    coefficient: Floats
    capacity: Floats
    link_count: Ints
    link_example: Ints
    priority: tuple[int, ...] = ()
    left_out: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    inside: Floats = field(default_factory=lambda: np.zeros(0))
    place: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def solo_rates(self) -> Floats:
        """Rate of each class when it is alone, (n_flows,) B/s."""
        rate = np.full(self.n_flows, np.inf)
        shared = self.link < self.n_shared
        flow, link = self.flow[shared], self.link[shared]
        np.minimum.at(rate, flow, self.capacity[link] / self.coefficient[shared])
        return rate

    @cached_property  # points of a sweep share the table
    def sharing(self) -> Sharing:
        """Who shares links with whom."""
        links: list[list[int]] = [[] for _ in range(self.n_flows)]
        flows: list[list[int]] = [[] for _ in range(self.n_shared)]
        shared = self.link < self.n_shared
        for flow, link in zip(self.flow[shared].tolist(), self.link[shared].tolist(), strict=True):
            links[flow].append(link)
            flows[link].append(flow)
        return Sharing(tuple(map(tuple, links)), tuple(map(tuple, flows)))

    @cached_property  # points of a sweep share the table
    def near(self) -> tuple[int, ...]:
        """Who shares links with whom as sets of bits: bit k of entry f says that classes f and k cross one link."""
        on = [reduce(or_, (1 << flow for flow in flows), 0) for flows in self.sharing.flows]
        return tuple(reduce(or_, (on[link] for link in links), 0) for links in self.sharing.links)

    @cached_property  # a set of flows comes again and again; points of a sweep share the table
    def known_rates(self) -> dict[Key, dict[int, float]]:
        """Rates per flow of sets of classes [B/s], as they were asked for: they follow from the table alone."""
        return {}

    @cached_property  # sorted entries, for each set of flows that is solved
    def by_flow(self) -> tuple[Ints, Ints, Floats]:
        """First entry of each class (one more at the end); link and coefficient of the entries, shared links only."""
        shared = np.flatnonzero(self.link < self.n_shared)
        order = shared[np.argsort(self.flow[shared], kind="stable")]
        start = np.searchsorted(self.flow[order], np.arange(self.n_flows + 1))
        return start, self.link[order], self.coefficient[order]


class Flow(Sleeper):
    """Bytes on their way, time after time; when they have arrived, `done` is called.

    What is left at `since`, and the rate from then on. `coming`: it has still to join the others on its links.
    position: of the transfer among those of its owner. paces: when it moved at which rate so far [s, s, B/s], if that
    changed and is asked for; paced: the same of transfers that are over, with their positions.
    """

    def __init__(self, done: Callable[[Any], Any]) -> None:
        super().__init__()
        self.done = done
        self.kind, self.left, self.since, self.rate = -1, 0.0, 0.0, 0.0
        self.coming = False
        self.position = 0
        self.paces: list[tuple[float, float, float]] = []
        self.paced: list[tuple[int, list[tuple[float, float, float]]]] = []

    def left_at(self, now: float) -> float:
        """Bytes still to move at `now`."""
        return self.left - self.rate * (now - self.since) if now > self.since else self.left


class Network:
    """Moves flows over shared links, and says so when one has arrived."""

    def __init__(
        self, table: FlowTable, *, check: bool = False, paces: bool = False, env: Environment | None = None
    ) -> None:
        """On a clock of its own unless it is given one; `check` proves each allocation, `paces` are kept if asked."""
        self.env, self.table, self.check, self.paces = env or Environment(), table, check, paces
        self.rates_alone = table.solo_rates()
        self.solo: list[float] = self.rates_alone.tolist()
        self.near = table.near
        self.bit = [1 << kind for kind in range(table.n_flows)]
        self.active: list[list[Flow]] = [[] for _ in self.bit]  # by class
        self._by_kind = list(zip(self.near, self.bit, self.solo, self.active, strict=True))
        self.coming: dict[int, list[Flow]] = {}  # flows that start up near others
        self.active_bits = self.coming_bits = 0  # their classes
        self.n_joins = 0  # of such flows
        self.settling = Settling(self.env)
        self.allocations: dict[Key, dict[int, float]] = {}
        self.allotted: dict[int, tuple[Key, float]] = {}  # class -> allocation by which it has its rate, and since when
        self.lasted: set[Key] = set()  # allocations that were so for some time
        self.was_alone: set[int] = set()  # classes of which one flow had its links to itself
        self.part_of: list[int] = []  # of each class, where parts of a program are told apart
        self.met: dict[int, dict[int, float]] = {}  # part -> another -> when either was last slowed by the other [s]
        self._changed: dict[int, None] = {}

    def start(self, flow: Flow, kind: int, size: float, latency: float = 0.0) -> None:
        """Put `size` bytes of flow class `kind` on its links, `latency` s from now, as `flow`, which is at rest."""
        now = self.env.now
        flow.kind, flow.left, flow.since = kind, size, now + latency
        near, bit, rate, flows = self._by_kind[kind]
        if not near & (self.active_bits | self.coming_bits):
            flows.append(flow)
            self.active_bits |= bit
            flow.rate, lasts = rate, latency + size / rate
            flow.rings_at = now + lasts
            flow.alarm = alarm = self.env.timeout(lasts)
            alarm.callbacks.append(partial(self._arrive, flow))
            return
        for other in _bits(near & self.active_bits):
            self._call_back(other, now)
        if latency > 0:
            self._await(flow)
        else:
            self._join(flow)

    def _call_back(self, kind: int, now: float) -> None:
        """Flows that are still starting up lose the end that was set for them."""
        for flow in [flow for flow in self.active[kind] if flow.since > now]:
            self._leave(flow)
            self._await(flow)

    def _await(self, flow: Flow) -> None:
        self.coming.setdefault(flow.kind, []).append(flow)
        self.coming_bits |= self.bit[flow.kind]
        flow.coming, flow.rate = True, 0.0
        flow.sleep_until(self.env, flow.since, partial(self._come, flow))

    def _join(self, flow: Flow) -> None:
        """Start to move bytes now, beside whoever is there."""
        crowded = self.near[flow.kind] & self.active_bits
        self._enter(flow)
        if crowded:
            flow.rate = 0.0  # that of an earlier transfer may be the one it is given now
            self._mark(flow.kind)
        else:
            self._run(flow, self.solo[flow.kind])

    def _enter(self, flow: Flow) -> None:
        kind = flow.kind
        self.active[kind].append(flow)
        self.active_bits |= self.bit[kind]

    def _leave(self, flow: Flow) -> None:
        kind = flow.kind
        flows = self.active[kind]
        flows.remove(flow)
        if not flows:
            self.active_bits ^= self.bit[kind]

    def _come(self, flow: Flow, _: Event) -> None:
        """A flow that was called back has started up."""
        flow.coming = False
        self.n_joins += 1
        flows = self.coming[flow.kind]
        flows.remove(flow)
        if not flows:
            del self.coming[flow.kind]
            self.coming_bits ^= self.bit[flow.kind]
        self._join(flow)

    def tell_apart(self, part_of: Ints) -> None:
        """Note from now on when parts meet; part_of: (n_flows,) part of each class."""
        self.part_of = part_of.tolist()

    def note_alone(self, kinds: set[int]) -> None:
        """Count these classes, one flow each, towards the peak load: they run inside chains."""
        self.was_alone.update(kinds)

    def _note_use(self, flow: Flow) -> None:
        """Count a flow at its rate alone towards the peak load, now that it has lasted for some time."""
        if flow.rate == self.solo[flow.kind] and flow.since < self.env.now:
            self.was_alone.add(flow.kind)

    def _note_pace(self, flow: Flow, now: float) -> None:
        """Keep the rate that a flow has had until now."""
        if self.paces and flow.since < now:
            flow.paces.append((flow.since, now, flow.rate))

    def _run(self, flow: Flow, rate: float) -> None:
        """Move what is left at `rate` from `flow.since` on; what has no rate stays where it is."""
        flow.rate = rate
        lasts = 0.0 if flow.left <= 0.0 else flow.left / rate if rate > 0.0 else inf
        flow.sleep_until(self.env, flow.since + lasts, partial(self._arrive, flow))

    def put_off(self, flow: Flow, later: float) -> None:
        """Let a flow that shares with nobody rest for `later` s, then go on as it was."""
        now = self.env.now
        self._note_pace(flow, now)
        flow.paces = [(begin + later, end + later, rate) for begin, end, rate in flow.paces]
        flow.left, flow.since = flow.left_at(now), max(flow.since, now) + later
        if flow.coming:
            flow.sleep_until(self.env, flow.since, partial(self._come, flow))
        else:
            self._run(flow, flow.rate)

    def move(self, flow: Flow, size: float) -> None:
        """`size` bytes of a flow that is on its links have moved at once."""
        now = self.env.now
        flow.left, flow.since = flow.left_at(now) - size, max(flow.since, now)
        self._run(flow, flow.rate)

    def _arrive(self, flow: Flow, _: Event) -> None:
        """All bytes of a flow are there."""
        kind = flow.kind
        if kind not in self.was_alone:
            self._note_use(flow)
        if flow.paces:
            self._note_pace(flow, self.env.now)
            flow.paced.append((flow.position, flow.paces))
            flow.paces = []
        near, bit, _, flows = self._by_kind[kind]
        flows.remove(flow)
        if not flows:
            self.active_bits ^= bit
        if near & self.active_bits:
            self._mark(kind)
        if kind in self.allotted:
            self._end_allotment(kind)
        flow.done(flow)

    def _mark(self, kind: int) -> None:
        if not self._changed:
            self.settling.after_all(RESOLVE, self._resolve)
        self._changed[kind] = None

    def _resolve(self) -> None:
        changed, self._changed = self._changed, {}
        unseen = self.active_bits
        for kind in changed:
            region, unseen = self._region(kind, unseen)
            if region:
                self._share(region)

    def _region(self, kind: int, unseen: int) -> tuple[list[int], int]:
        """Active classes among the `unseen` that `kind` reaches over shared links, sorted; and who is unseen still."""
        found: list[int] = []
        stack, now = [kind], self.env.now
        while stack:
            near = self.near[stack.pop()] & unseen
            unseen ^= near
            moving = [k for k in _bits(near) if self.active[k][0].since <= now]
            found += moving
            stack += moving
        return sorted(found), unseen

    def _share(self, region: list[int]) -> None:
        now = self.env.now
        key = tuple((kind, len(self.active[kind])) for kind in region)
        rates = self._rates(key)
        if self.part_of:
            self._note_meeting(region, rates)
        for kind in region:
            self._end_allotment(kind)
            self.allotted[kind] = key, now
            for flow in self.active[kind]:
                if flow.rate != rates[kind]:
                    self._note_use(flow)
                    self._note_pace(flow, now)
                    flow.left, flow.since = flow.left_at(now), now
                    self._run(flow, rates[kind])

    def _end_allotment(self, kind: int) -> None:
        """A class gets another rate, or leaves; an allocation that held for an instant alone is none."""
        key, since = self.allotted.pop(kind, ((), inf))
        if self.env.now - since > ALIKE * self.env.now:
            self.lasted.add(key)

    def _note_meeting(self, region: list[int], rates: dict[int, float]) -> None:
        """Note which parts are there if one of them would have other rates by itself."""
        parts: dict[int, list[int]] = {}
        for kind in region:
            parts.setdefault(self.part_of[kind], []).append(kind)
        if len(parts) > 1 and any(self._is_slowed(kinds, rates) for kinds in parts.values()):
            for part in parts:
                self.met.setdefault(part, {}).update(dict.fromkeys(parts.keys() - {part}, self.env.now))

    def _is_slowed(self, kinds: list[int], rates: dict[int, float]) -> bool:
        """Whether flows have less than they would have among themselves."""
        if all(rates[kind] == self.solo[kind] for kind in kinds):
            return False
        alone = self._rates(tuple((kind, len(self.active[kind])) for kind in kinds))
        return any(abs(rates[kind] - alone[kind]) > ALIKE * alone[kind] for kind in kinds)

    def _rates(self, key: Key) -> dict[int, float]:
        """Rate per flow of each class in `key`; remembered, since training repeats itself, and the next step too."""
        if key not in self.allocations:
            known = {} if self.check else self.table.known_rates
            self.allocations[key] = known[key] if key in known else solve(self.table, key, self.check)
            known[key] = self.allocations[key]
        return self.allocations[key]

    def peak_load(self) -> Floats:
        """Largest share of capacity each link class ever carried for some time, (n_links,).

        For links left out of sharing it is a lower bound: flows that share nothing else are not added.
        """
        table, peak = self.table, np.zeros(len(self.table.capacity))
        alone = np.isin(table.flow, sorted(self.was_alone)) & np.isfinite(self.rates_alone[table.flow])
        np.maximum.at(peak, table.link[alone], (table.coefficient * self.rates_alone[table.flow])[alone])
        now = self.env.now
        under_way = {key for key, since in self.allotted.values() if now - since > ALIKE * now}
        for key in self.lasted | under_way:
            rates = self.allocations[key]
            weight = np.zeros(self.table.n_flows)
            for kind, count in key:
                weight[kind] = count * rates[kind] if np.isfinite(rates[kind]) else 0.0
            load = np.bincount(table.link, table.coefficient * weight[table.flow], len(peak))
            np.maximum(peak, load, out=peak)
        return peak / table.capacity


def solve(table: FlowTable, key: Key, check: bool = False) -> dict[int, float]:
    """Max-min rates of the flows in `key`, B/s per flow; of each priority in what those before it leave.

    Raises CertificateError if asked to check.
    """
    start, links, coefficients = table.by_flow
    kinds, count = np.array(key).T
    width = start[kinds + 1] - start[kinds]
    flow = np.repeat(np.arange(len(kinds)), width)
    entry = ranges(start[kinds], width)
    used, link = np.unique(links[entry], return_inverse=True)
    coefficient, left = coefficients[entry] * count[flow], table.capacity[used]
    priority, rate = np.array(table.priority)[kinds] if table.priority else np.zeros(len(kinds)), np.zeros(len(kinds))
    for level in np.unique(priority).tolist():
        mine = priority == level
        on = mine[flow]
        loads = np.cumsum(mine)[flow[on]] - 1, link[on], coefficient[on]
        rate[mine] = max_min_rates(*loads, left, int(mine.sum()))
        if check and (fault := certificate(*loads, left, rate[mine])):
            raise CertificateError(f"rate allocation of flow classes {key} is not max-min fair: {fault}")
        left = remaining(*loads, left, rate[mine])
    return dict(zip(kinds.tolist(), rate.tolist(), strict=True))


def _bits(number: int) -> Iterator[int]:
    """Places of the bits that are set, lowest first."""
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest
