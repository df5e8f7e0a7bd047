"""The long run as sections of the text report: where its time went, how lives scatter, what broke.

Public: `long_run`, `interval_rows`, `time_rows`, `QUANTITIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import RenderableType

from sim.metrics.result import IncidentResult, RunResult, Spread
from sim.report import human
from sim.report.layout import columns, grid, section, share_row

Row = tuple[str, ...]
PRODUCTIVE = "training"
BUCKETS = {
    "initialisation": "initialisation",
    "input_stall": "input stall",
    "checkpoint_blocking": "checkpoints, blocking",
    "restore": "restore",
    "lost_work": "lost work",
    "detection": "detection",
    "waiting": "waiting for nodes",
    "slow_parts": "slow parts",
}
QUANTITIES: dict[str, tuple[str, Callable[[float], str]]] = {
    "time_to_train_s": ("time to train", human.duration),
    "goodput": ("goodput", lambda share: f"{100 * share:.2f} %"),
    "lost_work_s": ("lost work", human.duration),
    "failures": ("stops", human.digits),
    "energy_kwh": ("energy", human.energy),
    "usd": ("cost", human.money),
}
SHOWN_CAUSES = 12
SHOWN_INCIDENTS = 5


def long_run(run: RunResult, fill: str) -> Iterator[RenderableType]:
    """All sections; `fill` is what bars are drawn with."""
    many, lives = run.seeds > 1, f"{human.count(run.seeds)} lives"
    if run.badput_s:
        yield from section(f"Where the time goes{f', mean of {lives}' if many else ''}", _goodput(run, fill))
    if run.spreads:
        yield from section(f"Over {lives}", columns(("", "mean", "95 %", "p5", "p50", "p95"), _spread_rows(run)))
    if run.failures_by_cause:
        title = f"Failures{', mean of a life' if many else ''}"
        yield from section(title, columns(("cause", "times", "expected"), _cause_rows(run)))
    if run.incidents:
        first = "the first life" if many else "it"
        title = f"Incidents, the first of {human.count(len(run.incidents))} that stopped {first}"
        yield from section(title, _incidents(run))


def _goodput(run: RunResult, fill: str) -> RenderableType:
    size, unit = human.pick(run.elapsed_s, human.DURATION)
    table = grid("left", "right", "right", "left")
    for label, seconds in time_rows(run):
        table.add_row(*share_row(label, seconds, run.elapsed_s, size, unit, fill))
    table.add_row("all", f"{run.elapsed_s / size:,.3f} {unit}", human.percent(1.0), style="bold")
    return table


def _incidents(run: RunResult) -> RenderableType:
    table = grid("right", "fold", "fold", "right", "right")
    table.add_row("at", "what", "then", "down for", "lost steps", style="dim")
    for row in _incident_rows(run):
        table.add_row(*row)
    return table


def time_rows(run: RunResult) -> Iterator[tuple[str, float]]:
    """Label and seconds of training that counted, then of each bucket of badput that is not empty."""
    yield PRODUCTIVE, run.elapsed_s - sum(run.badput_s.values())
    for name, label in BUCKETS.items():
        if run.badput_s.get(name):
            yield label, run.badput_s[name]


def _spread_rows(run: RunResult) -> Iterator[Row]:
    """Quantity, mean with the half width of its confidence interval, p5, p50, p95."""
    for name, (label, say) in QUANTITIES.items():
        spread = run.spreads.get(name)
        if spread:
            yield label, say(spread.mean), _width(spread), *map(say, (spread.p5, spread.p50, spread.p95))


def _width(spread: Spread) -> str:
    if spread.half_width is None or not spread.mean:
        return ""
    return f"±{100 * spread.half_width / abs(spread.mean):.2f} %"


def _cause_rows(run: RunResult) -> Iterator[Row]:
    """Cause, how often, how often the rates promise; most frequent first, rare ones together."""
    times, expected = run.failures_by_cause, run.expected_by_cause
    causes = sorted({*times, *expected}, key=lambda cause: (-expected.get(cause, 0.0), -times.get(cause, 0.0), cause))
    for cause in causes[:SHOWN_CAUSES]:
        promised = human.digits(expected[cause]) if cause in expected else ""
        yield cause.replace("_", " "), human.digits(times.get(cause, 0.0)), promised
    rest = causes[SHOWN_CAUSES:]
    if rest:
        sums = (sum(counts.get(cause, 0.0) for cause in rest) for counts in (times, expected))
        yield f"{len(rest)} other causes", *map(human.digits, sums)
    yield "all", human.digits(sum(times.values())), human.digits(sum(expected.values()))


def _incident_rows(run: RunResult) -> Iterator[Row]:
    """When, what, what was done, for how long, steps lost; the first of them."""
    for incident in run.incidents[:SHOWN_INCIDENTS]:
        yield (
            human.duration(incident.time_s),
            _struck(incident),
            incident.action or "same nodes",
            human.duration(incident.downtime_s),
            human.digits(incident.lost_steps),
        )


def _struck(incident: IncidentResult) -> str:
    nodes = incident.nodes
    place = f", {incident.names[0]}" if len(nodes) == 1 else f", {len(nodes)} nodes" if nodes else ""
    return f"{incident.cause.replace('_', ' ')}{place}"


def interval_rows(run: RunResult | None) -> Iterator[tuple[str, str, str]]:
    """How often the state was saved, and how often would have been best."""
    if run is None or run.checkpoint_interval_s is None:
        return
    saves = f"{human.count(run.checkpoints)} saves that became durable"
    yield "saved every", human.duration(run.checkpoint_interval_s), saves
    best = run.best_interval
    if best:
        share, used = f"{100 * best.goodput:.2f} %", f"{100 * best.goodput_used:.2f} %"
        yield "best by simulation", human.duration(best.interval_s), f"goodput {share} instead of {used}"
