"""Links shared by flows: rates against the certificate and a plain twin, times against a plain fluid."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sim.engine.fairness import certificate, max_min_rates
from sim.engine.network import Flow, FlowTable, Network

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
EXACT = 1e-9  # floats added in another order; nothing else differs from the twins


@dataclass(frozen=True)
class Sharing:
    """Flows over links: load[l][f] is what a unit of rate of flow f puts on link l."""

    load: tuple[tuple[float, ...], ...]
    capacity: tuple[float, ...]

    @property
    def n_flows(self) -> int:
        return len(self.load[0])

    @property
    def matrix(self) -> Floats:
        return np.array(self.load)

    @property
    def entries(self) -> tuple[Ints, Ints, Floats]:
        """Flow, link and coefficient of each non-zero load."""
        link, flow = np.nonzero(self.matrix)
        return flow, link, self.matrix[link, flow]


COEFFICIENTS = st.sampled_from([0.0, 0.0, 0.0, 0.125, 0.25, 0.5, 0.875, 1.0, 1.0, 2.0, 3.0])
CAPACITIES = st.one_of(st.sampled_from([1.0, 1.0, 2.0, 4.0, 25.0]), st.floats(0.1, 100.0))  # many ties


@st.composite
def sharings(draw: st.DrawFn, most_flows: int = 8) -> Sharing:
    """Random sharings in which every flow crosses a link; some flows are copies of others."""
    n_links, n_flows = draw(st.integers(1, 6)), draw(st.integers(1, most_flows))
    columns = draw(st.lists(st.lists(COEFFICIENTS, min_size=n_links, max_size=n_links), min_size=1, max_size=n_flows))
    columns = [column if any(column) else [1.0, *column[1:]] for column in columns]
    columns += [columns[draw(st.integers(0, len(columns) - 1))] for _ in range(n_flows - len(columns))]
    capacity = draw(st.lists(CAPACITIES, min_size=n_links, max_size=n_links))
    return Sharing(tuple(zip(*columns, strict=True)), tuple(capacity))


def water_filling(sharing: Sharing) -> list[float]:
    """The textbook twin: raise all rates together, freeze the flows of each link that fills, go on.

    Bertsekas and Gallager, Data Networks, 2nd edition, section 6.5.2.
    """
    rates = [0.0] * sharing.n_flows
    free = set(range(sharing.n_flows))
    level = 0.0
    while free:
        left = [c - sum(a * rates[f] for f, a in enumerate(row) if f not in free)
                for row, c in zip(sharing.load, sharing.capacity, strict=True)]  # fmt: skip
        slope = [sum(row[f] for f in free) for row in sharing.load]
        level = min(rest / steep for rest, steep in zip(left, slope, strict=True) if steep > 0)
        full = [steep > 0 and rest / steep <= level * (1 + 1e-12) for rest, steep in zip(left, slope, strict=True)]
        stopped = {
            f for f in free if any(is_full and row[f] > 0 for is_full, row in zip(full, sharing.load, strict=True))
        }
        for f in stopped:
            rates[f] = level
        free -= stopped
    return rates


class TestRates:
    @given(sharings())
    def test_rates_pass_the_certificate(self, sharing: Sharing) -> None:
        flow, link, coefficient = sharing.entries
        capacity = np.array(sharing.capacity)
        rate = max_min_rates(flow, link, coefficient, capacity, sharing.n_flows)
        assert certificate(flow, link, coefficient, capacity, rate) is None

    @given(sharings())
    def test_rates_are_those_of_plain_water_filling(self, sharing: Sharing) -> None:
        rate = max_min_rates(*sharing.entries, np.array(sharing.capacity), sharing.n_flows)
        np.testing.assert_allclose(rate, water_filling(sharing), rtol=EXACT)

    @given(sharings())
    def test_copies_of_a_flow_get_the_same(self, sharing: Sharing) -> None:
        rate = max_min_rates(*sharing.entries, np.array(sharing.capacity), sharing.n_flows)
        columns = list(zip(*sharing.load, strict=True))
        for f, column in enumerate(columns):
            assert rate[f] == pytest.approx(rate[columns.index(column)], rel=EXACT)

    def test_a_flow_over_no_link_is_not_bounded(self) -> None:
        nothing = np.zeros(0, dtype=np.int64)
        assert max_min_rates(nothing, nothing, np.zeros(0), np.ones(1), 1).tolist() == [np.inf]

    def test_three_flows_on_two_links(self) -> None:
        """The classic: one flow over both links, one on each; the long one gets half of the narrow link."""
        flow, link = np.array([0, 0, 1, 2]), np.array([0, 1, 0, 1])
        assert max_min_rates(flow, link, np.ones(4), np.array([1.0, 2.0]), 3).tolist() == [0.5, 0.5, 1.5]


class TestCertificate:
    """The proof refuses what is not the allocation: too much, too little, and not fair."""

    flow, link = np.array([0, 0, 1, 2]), np.array([0, 1, 0, 1])
    capacity = np.array([1.0, 2.0])

    @pytest.mark.parametrize(
        ("rate", "fault"),
        [
            ([0.5, 0.5, 1.5], None),
            ([0.5, 0.6, 1.5], "link 0 carries"),
            ([0.5, 0.5, 1.4], "flow 2 could be faster"),
            ([0.4, 0.6, 1.6], "flow 0 could be faster"),
        ],
    )
    def test_certificate(self, rate: list[float], fault: str | None) -> None:
        found = certificate(self.flow, self.link, np.ones(4), self.capacity, np.array(rate))
        assert found is None if fault is None else fault in str(found)


@dataclass(frozen=True)
class Arrival:
    """`size` bytes of flow class `kind` that start at `time`."""

    time: float
    kind: int
    size: float


@st.composite
def traffic(draw: st.DrawFn) -> tuple[Sharing, list[Arrival]]:
    """Flow classes and arrivals, several at one instant."""
    sharing = draw(sharings(most_flows=5))
    times = st.one_of(st.sampled_from([0.0, 0.0, 1.0, 2.5]), st.floats(0.0, 5.0))
    sizes = st.one_of(st.sampled_from([1.0, 1.0, 4.0]), st.floats(0.01, 20.0))
    one = st.builds(Arrival, times, st.integers(0, sharing.n_flows - 1), sizes)
    return sharing, sorted(draw(st.lists(one, min_size=1, max_size=12)), key=lambda arrival: arrival.time)


def fluid(sharing: Sharing, arrivals: list[Arrival]) -> list[float]:
    """The slow twin: solve everything anew at every event, move all flows to the next one."""
    left = [arrival.size for arrival in arrivals]
    finish = [np.nan] * len(arrivals)
    now = 0.0
    while any(np.isnan(finish)):
        active = [i for i, a in enumerate(arrivals) if a.time <= now and np.isnan(finish[i])]
        load = tuple(tuple(row[arrivals[i].kind] for i in active) for row in sharing.load)
        rates = water_filling(Sharing(load, sharing.capacity)) if active else []
        ends = [now + left[i] / rate for i, rate in zip(active, rates, strict=True)]
        then = min([*ends, *(a.time for a in arrivals if a.time > now)])
        for i, rate, end in zip(active, rates, ends, strict=True):
            left[i] -= rate * (then - now)
            if end <= then * (1 + 1e-13):
                finish[i] = then
        now = then
    return finish


@dataclass
class Recorder:
    """Runs arrivals on a network; finish time by arrival."""

    network: Network
    arrivals: list[Arrival]
    finish: dict[int, float] = field(default_factory=dict)

    def run(self) -> list[float]:
        for number in range(len(self.arrivals)):
            self.network.env.process(self.feed(number))
        self.network.env.run()
        return [self.finish[number] for number in range(len(self.arrivals))]

    def feed(self, number: int):  # type: ignore[no-untyped-def]
        arrival = self.arrivals[number]
        yield self.network.env.timeout(arrival.time)
        self.start(number, arrival)

    def start(self, number: int, arrival: Arrival, latency: float = 0.0) -> None:
        flow = Flow(lambda _: self.finish.update({number: self.network.env.now}))
        self.network.start(flow, arrival.kind, arrival.size, latency)


@dataclass
class Starter(Recorder):
    """The same, but every flow is handed over up to `start_up` s early, at time 0 the earliest."""

    start_up: float = 1.5

    def feed(self, number: int):  # type: ignore[no-untyped-def]
        arrival = self.arrivals[number]
        early = max(0.0, arrival.time - self.start_up)
        yield self.network.env.timeout(early)
        self.start(number, arrival, latency=arrival.time - self.network.env.now)


def table_of(sharing: Sharing) -> FlowTable:
    flow, link, coefficient = sharing.entries
    n_links = len(sharing.capacity)
    return FlowTable(
        n_flows=sharing.n_flows,
        n_shared=n_links,
        flow=flow,
        link=link,
        coefficient=coefficient,
        capacity=np.array(sharing.capacity),
        link_count=np.ones(n_links, dtype=np.int64),
        link_example=np.arange(n_links),
    )


def network_of(sharing: Sharing) -> Network:
    """A network that checks every allocation."""
    return Network(table_of(sharing), check=True)


class TestNetwork:
    @given(traffic())
    def test_flows_finish_as_in_a_plain_fluid(self, case: tuple[Sharing, list[Arrival]]) -> None:
        sharing, arrivals = case
        finish = Recorder(network_of(sharing), arrivals).run()
        np.testing.assert_allclose(finish, fluid(sharing, arrivals), rtol=EXACT)

    @given(traffic(), st.sampled_from([0.1, 1.5, 10.0]))
    def test_flows_that_start_up_are_on_their_links_when_they_have(
        self, case: tuple[Sharing, list[Arrival]], start_up: float
    ) -> None:
        """A flow alone is one event, called back when others come near: nobody finishes at another time."""
        sharing, arrivals = case
        finish = Starter(network_of(sharing), arrivals, start_up=start_up).run()
        np.testing.assert_allclose(finish, Recorder(network_of(sharing), arrivals).run(), rtol=EXACT)

    def test_a_flow_that_starts_up_near_nobody_is_one_event(self) -> None:
        network = network_of(Sharing(((1.0, 0.0), (0.0, 1.0)), (1.0, 1.0)))
        for kind in (0, 1):
            network.start(Flow(lambda flow: None), kind, 1.0, latency=2.0)
        assert network.env.peek() == 3.0
        network.start(Flow(lambda flow: None), 1, 1.0, latency=2.0)
        assert network.env.peek() == 2.0
        network.env.run()
        assert (network.env.now, network.n_joins) == (4.0, 2)

    @given(traffic())
    def test_no_link_is_overfull(self, case: tuple[Sharing, list[Arrival]]) -> None:
        sharing, arrivals = case
        network = network_of(sharing)
        finish = Recorder(network, arrivals).run()
        sent = np.bincount([a.kind for a in arrivals], [a.size for a in arrivals], sharing.n_flows)
        assert not network.active_bits
        assert network.peak_load().max() <= 1 + EXACT
        mean = sharing.matrix @ sent / np.array(sharing.capacity) / max(finish)
        assert (mean <= network.peak_load() * (1 + EXACT) + EXACT).all()

    def test_a_link_is_shared_and_freed(self) -> None:
        """10 B/s: 10 B alone for 0.5 s, half each until 10 B are there at 1.5 s, then the rest alone."""
        arrivals = [Arrival(0.0, 0, 10.0), Arrival(0.5, 0, 10.0)]
        network = network_of(Sharing(((1.0,),), (10.0,)))
        assert Recorder(network, arrivals).run() == pytest.approx([1.5, 2.0], rel=EXACT)

    def test_flows_elsewhere_are_left_alone(self) -> None:
        """Two islands of links: traffic on one does not touch the timers of the other."""
        sharing = Sharing(((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)), (1.0, 1.0))
        arrivals = [Arrival(0.0, 2, 3.0), Arrival(0.0, 0, 1.0), Arrival(0.5, 1, 1.0)]
        network = network_of(sharing)
        assert Recorder(network, arrivals).run() == pytest.approx([3.0, 1.5, 2.0], rel=EXACT)
        assert all({kind for kind, _ in key} <= {0, 1} or key == ((2, 1),) for key in network.allocations)

    def test_changes_at_one_instant_are_one_solution(self) -> None:
        """A hundred arrivals at once, and a hundred departures at once."""
        network = network_of(Sharing(((1.0,) * 100,), (1.0,)))
        finish = Recorder(network, [Arrival(1.0, kind, 2.0) for kind in range(100)]).run()
        assert finish == pytest.approx([201.0] * 100, rel=EXACT)
        assert len(network.allocations) == 1

    def test_a_rate_that_never_lasts_is_no_peak(self) -> None:
        """The first of two flows of an instant is alone for no time; its wide link never sees that rate."""
        sharing = Sharing(((1.0, 1.0), (1.0, 0.0)), (1.0, 1.0))
        network = network_of(sharing)
        Recorder(network, [Arrival(0.0, 0, 1.0), Arrival(0.0, 1, 1.0)]).run()
        assert network.peak_load().tolist() == pytest.approx([1.0, 0.5])

    def test_links_left_out_of_sharing_hold_nobody_back(self) -> None:
        table = table_of(Sharing(((1.0, 1.0), (1.0, 1.0)), (1.0, 0.5)))
        pruned = FlowTable(**{**vars(table), "n_shared": 1})
        network = Network(pruned)
        assert Recorder(network, [Arrival(0.0, 0, 1.0)]).run() == [1.0]
