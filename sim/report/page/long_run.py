"""The long run on the page of a run: where its time went, how lives scatter, what broke.

Public: `long_run_parts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

from sim.metrics.result import BestInterval, RunResult, Spread
from sim.report import human
from sim.report.long_run import QUANTITIES, time_rows
from sim.report.page.charts import BLUE, share_chart
from sim.report.page.frame import Cell, Figure, Part, note, table

SHOWN_INCIDENTS = 500
DRAWN = ("time_to_train_s", "goodput", "lost_work_s", "usd")
TICKS = 4


def long_run_parts(run: RunResult) -> Iterator[Part]:
    """Charts and tables of a run."""
    if run.badput_s:
        yield share_chart("goodput", "Where the time of the run goes", dict(time_rows(run)), human.duration)
    for name in DRAWN:
        spread = run.spreads.get(name)
        if spread and spread.high > spread.low:
            yield spread_chart(name.replace("_", "-"), *QUANTITIES[name], spread, run.seeds)
    yield _quantiles(run)
    if run.best_interval and run.checkpoint_interval_s:
        yield note(_advice(run.checkpoint_interval_s, run.best_interval))
    if run.failures_by_cause:
        yield _causes(run)
    if run.incidents:
        if len(run.incidents) > SHOWN_INCIDENTS:
            yield note(f"The first {SHOWN_INCIDENTS} of {len(run.incidents)} incidents.")
        yield _incidents(run)


def spread_chart(name: str, label: str, say: Callable[[float], str], spread: Spread, lives: int) -> Figure:
    """Lives by the value of a quantity."""
    width = (spread.high - spread.low) / len(spread.counts)
    edges = [spread.low + number * width for number in range(len(spread.counts) + 1)]
    ticks = [spread.low + number * (spread.high - spread.low) / TICKS for number in range(TICKS + 1)]
    data = [
        {
            "type": "bar",
            "x": [edge + width / 2 for edge in edges[:-1]],
            "y": list(spread.counts),
            "width": [width] * len(spread.counts),
            "customdata": [f"{say(low)} to {say(high)}" for low, high in pairwise(edges)],
            "marker": {"color": BLUE},
            "hovertemplate": "%{customdata}: %{y} lives<extra></extra>",
        }
    ]
    layout = {
        "xaxis": {"tickvals": ticks, "ticktext": [say(tick) for tick in ticks], "title": {"text": label}},
        "yaxis": {"title": {"text": "lives"}},
        "bargap": 0.02,
    }
    text = f"{label.capitalize()} of {human.count(lives)} lives: {say(spread.p5)} to {say(spread.p95)} in 9 of 10."
    return Figure(f"spread-{name}", text, data, layout, 260)


def _quantiles(run: RunResult) -> str:
    if not run.spreads:
        rows: list[list[Cell]] = [
            [name, (seconds, human.duration(seconds))] for name, seconds in run.time_to_train_s.items()
        ]
        return table(("time to train", ""), rows)
    rows = []
    for name, (label, say) in QUANTITIES.items():
        spread = run.spreads.get(name)
        if spread:
            half = (spread.half_width or 0.0, f"±{say(spread.half_width or 0.0)}")
            values = ((value, say(value)) for value in (spread.p5, spread.p50, spread.p95))
            rows.append([label, (spread.mean, say(spread.mean)), half, *values])
    return table((f"over {human.count(run.seeds)} lives", "mean", "95 % of the mean", "p5", "p50", "p95"), rows)


def _advice(used: float, best: BestInterval) -> str:
    shares = f"goodput {100 * best.goodput:.2f} % instead of {100 * best.goodput_used:.2f} %"
    return f"Saved every {human.duration(used)}; best by simulation {human.duration(best.interval_s)}: {shares}."


def _causes(run: RunResult) -> str:
    causes = sorted({*run.failures_by_cause, *run.expected_by_cause})
    rows: Iterator[list[Cell]] = ([cause.replace("_", " "), *(_times(run, cause))] for cause in causes)
    return table(("cause", "times", "expected from its rate"), rows)


def _times(run: RunResult, cause: str) -> Iterator[Cell]:
    for counts in (run.failures_by_cause, run.expected_by_cause):
        number = counts.get(cause)
        yield "" if number is None else (number, human.digits(number))


def _incidents(run: RunResult) -> str:
    rows: Iterator[list[Cell]] = (
        [
            (each.time_s, human.duration(each.time_s)),
            each.cause,
            each.component,
            ", ".join(each.names[:4]),
            each.action,
            (each.downtime_s, human.duration(each.downtime_s)),
            (each.lost_steps, human.digits(each.lost_steps)),
        ]
        for each in run.incidents[:SHOWN_INCIDENTS]
    )
    head = ("at", "cause", "part", "nodes", "action", "down for", "steps lost")
    return table(head, rows, "incidents", filtered=True)
