"""Workers that do not sum gradients in lock-step, as a section of the text report.

Public: `synchrony_rows`.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.metrics.result import Result
from sim.report import human

Row = tuple[str, str, str]  # label, value, remark
MOST_LINKS = 3


def synchrony_rows(result: Result) -> Iterator[Row]:
    """What workers wait for, how old their weights are, and what goes over which links."""
    told = result.synchronization
    if told is None:
        return
    yield "way", f"{told.kind.replace('_', ' ')}, {told.mode.replace('_', '-')}", ""
    yield "workers", human.count(told.workers), ""
    if told.servers:
        busy = f"at work {human.percent(told.server_busy)} of the time"
        yield "servers", human.count(told.servers), f"{human.size(told.server_bytes)} each, {busy}"
    if told.exchange_alone_s:
        yield (
            "exchange",
            human.duration(told.exchange_alone_s),
            f"by itself; the same weights every {told.steps_between} steps",
        )
    step = told.compute_s + told.exchange_s + told.waiting_s
    for label, seconds in (("the exchange", told.exchange_s), ("other workers", told.waiting_s)):
        yield (
            f"waits for {label}",
            human.step_time(seconds) if seconds else "0 s",
            f"{human.percent(seconds / step)} of a step",
        )
    stale = told.staleness
    yield "updates", f"{human.digits(told.updates_per_s)} /s", ""
    most = f"updates: half up to {stale['p50']:.0f}, 95 % up to {stale['p95']:.0f}, all up to {stale['max']:.0f}"
    yield "staleness", f"{stale['mean']:.1f}", most
    yield "sent in a step", human.traffic(told.sent_bytes), "by a worker"
    yield "received in a step", human.traffic(told.received_bytes), "by a worker"
    for link in told.links[:MOST_LINKS]:
        peak = f"at most {human.percent(link.peak)}, {human.count(link.count)} links as {link.name}"
        yield f"mean use of {link.kind}", human.percent(link.mean), peak
