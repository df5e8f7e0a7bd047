"""The report of a fleet as text.

Public: `print_fleet`, `BOARD_LABELS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Console, Group, RenderableType
from rich.text import Text

from sim.metrics.fleet import FleetGroup, FleetResult
from sim.report import human
from sim.report.layout import ASCII_FILL, BLOCK_FILL, columns, grid, labelled, section, share_row
from sim.report.text import bullet

BOARD_LABELS = {
    "productive": "productive",
    "lost": "lost work",
    "loading": "loading",
    "saving": "saving",
    "blocked": "idle while jobs wait",
    "idle": "idle, nobody waits",
    "down": "in repair",
    "off": "asleep",
}
SHOWN = 12  # users and queues


def print_fleet(result: FleetResult, console: Console) -> None:
    """Print the whole report of one fleet."""
    fill = ASCII_FILL if console.options.ascii_only else BLOCK_FILL
    console.print(Group(*_sections(result, fill)), highlight=False)


def _sections(result: FleetResult, fill: str) -> Iterator[RenderableType]:
    yield Text(result.name, style="bold") + Text(
        f"  {result.description}" if result.description else "", style="not bold"
    )
    yield from section("Fleet", labelled(_setting(result)))
    yield from section("Jobs", labelled(_jobs(result)))
    yield from section("Where the boards' time goes", _boards(result, fill))
    yield from section("Energy and cost", labelled(_bill(result)))
    yield from section("By size", _groups("boards", result.by_size))
    yield from section("By user", _groups("user", _largest(result.by_user)))
    yield from section("By queue", _groups("queue", _largest(result.by_queue)))
    yield from section("Notes", *[bullet(note) for note in result.notes])


def _setting(result: FleetResult) -> Iterator[tuple[str, str, str]]:
    yield "policy", result.policy, ""
    yield "placement", result.placement, ""
    yield "nodes", human.count(result.nodes), f"{human.count(result.boards)} boards"
    yield "time", human.duration(result.elapsed_s), ""


def _jobs(result: FleetResult) -> Iterator[tuple[str, str, str]]:
    yield "jobs", human.count(result.jobs), ", ".join(_fates(result))
    if result.finished:
        tails = f"median {human.duration(result.p50_jct_s)}, p99 {human.duration(result.p99_jct_s)}"
        yield "completion time, mean", human.duration(result.avg_jct_s), tails
        waits = f"median {human.duration(result.p50_queue_s)}, p99 {human.duration(result.p99_queue_s)}"
        yield "waiting, mean", human.duration(result.avg_queue_s), waits
        yield "makespan", human.duration(result.makespan_s), ""
        unfair = f"worst {human.digits(result.max_unfairness)}; 1 is a fair share of one's own"
        yield "finish-time fairness", human.digits(result.avg_unfairness), unfair
    yield "utilization", human.percent(result.utilization), "productive board-seconds until the last job ends"
    if result.preemptions:
        yield "preemptions", human.count(result.preemptions), f"{human.digits(result.preemptions / result.jobs)} a job"
    if result.migrations:
        yield "migrations", human.count(result.migrations), ""
    if result.faults:
        causes = ", ".join(f"{cause.replace('_', ' ')} {number}" for cause, number in sorted(result.faults.items()))
        yield "failures", human.count(sum(result.faults.values())), f"{causes}; {result.job_failures} jobs hit"
    if result.late is not None:
        yield "deadlines missed", human.count(result.late), ""


def _fates(result: FleetResult) -> Iterator[str]:
    if result.finished != result.jobs:
        yield f"{human.count(result.finished)} ended"
    if result.unfinished:
        yield f"{human.count(result.unfinished)} did not end"
    if result.refused:
        yield f"{human.count(result.refused)} can never run here"


def _boards(result: FleetResult, fill: str) -> RenderableType | None:
    total = sum(result.board_seconds.values())
    if not total:
        return None
    size, unit = human.pick(total / result.boards, human.DURATION)
    table = grid("left", "right", "right", "left")
    for name, label in BOARD_LABELS.items():
        if seconds := result.board_seconds[name]:
            table.add_row(*share_row(label, seconds / result.boards, total / result.boards, size, unit, fill))
    table.add_row("all", f"{total / result.boards / size:,.3f} {unit}", human.percent(1.0), style="bold")
    return table


def _bill(result: FleetResult) -> Iterator[tuple[str, str, str]]:
    bill = result.bill
    if bill is None:
        return
    yield "energy", human.energy(bill.energy_kwh), f"of which boards at work {human.energy(bill.boards_kwh)}"
    yield "mean power", human.power(bill.avg_power_w), ""
    if bill.carbon_kg is not None:
        yield "carbon", human.carbon(bill.carbon_kg), ""
    if bill.electricity_usd is not None:
        yield "electricity", human.money(bill.electricity_usd), ""
    if bill.hardware_usd is not None:
        yield "boards", human.money(bill.hardware_usd), "rent, or write-off and upkeep, idle ones too"


def _groups(label: str, groups: Mapping[str, FleetGroup]) -> RenderableType | None:
    if len(groups) < 2:
        return None
    priced = any(group.cost_usd is not None for group in groups.values())
    rows = (
        (
            name,
            human.count(group.jobs),
            human.duration(group.avg_jct_s),
            human.duration(group.avg_queue_s),
            f"{group.board_s / 3600:,.0f}",
            *([human.money(group.cost_usd or 0.0)] if priced else []),
        )
        for name, group in groups.items()
    )
    head = (label, "jobs", "mean completion", "mean waiting", "board-hours", *(["cost"] if priced else []))
    return columns(head, rows)


def _largest(groups: Mapping[str, FleetGroup]) -> dict[str, FleetGroup]:
    """Those that had most."""
    ranked = sorted(groups.items(), key=lambda item: (-item[1].board_s, item[0]))
    return dict(ranked[:SHOWN])
