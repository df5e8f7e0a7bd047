"""Pages of fleets: the cluster over time, jobs on nodes, who waits how long.

Public: `fleet_page`, `many_page`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sim.fleet.inputs import FleetEvent
from sim.metrics.fleet import FleetGroup, FleetResult, JobRow
from sim.report import human
from sim.report.fleet import BOARD_LABELS
from sim.report.fleet_table import SHOWN, means
from sim.report.page.charts import BLUE, PALETTE, share_chart
from sim.report.page.frame import Cell, Figure, Part, Section, cards, note, page, table

DAY = 86400.0
MOST_ROWS = 2000
MOST_SPANS = 4000
MOST_NODES = 200
LEAVES = ("end", "stop", "fail", "move")


def fleet_page(result: FleetResult, rows: Sequence[JobRow], events: Sequence[FleetEvent], nodes: Sequence[str]) -> str:
    """The page of one life."""
    sections = (
        Section("Result", [cards(_cards(result)), *map(note, result.notes)]),
        Section("The cluster over time", list(_over_time(result))),
        Section("Where the boards' time goes", list(_shares(result))),
        Section("Jobs on nodes", list(_on_nodes(events, nodes, result.elapsed_s))),
        Section("Waiting", list(_waiting(result, rows))),
        Section("Jobs", list(_jobs(rows))),
    )
    return page(result.name, result.description or f"{result.policy}, {result.placement}", sections)


def _cards(result: FleetResult) -> Iterator[tuple[str, str, str]]:
    yield "jobs", human.count(result.jobs), f"{human.count(result.finished)} ended"
    yield "boards", human.count(result.boards), f"{human.count(result.nodes)} nodes"
    yield "completion time", human.duration(result.avg_jct_s), f"p99 {human.duration(result.p99_jct_s)}"
    yield "waiting", human.duration(result.avg_queue_s), f"p99 {human.duration(result.p99_queue_s)}"
    yield "utilization", human.percent(result.utilization), f"held {human.percent(result.occupancy)}"
    yield "makespan", human.duration(result.makespan_s), f"policy {result.policy}, {result.placement}"
    if result.preemptions:
        yield "preemptions", human.count(result.preemptions), ""
    if result.job_failures:
        yield "jobs hit by failures", human.count(result.job_failures), ""
    if result.bill:
        yield "energy", human.energy(result.bill.energy_kwh), f"mean {human.power(result.bill.avg_power_w)}"
        if result.bill.carbon_kg is not None:
            yield "carbon", human.carbon(result.bill.carbon_kg), ""
        if result.bill.hardware_usd is not None:
            yield "cost of boards", human.money(result.bill.hardware_usd), ""


def _over_time(result: FleetResult) -> Iterator[Part]:
    series, step = result.series, result.series_step_s / DAY
    days = [step * (number + 0.5) for number in range(len(series["busy"]))]
    areas = [
        _area(days, series["busy"], "running", BLUE),
        _area(days, series["stranded"], "idle while jobs wait", PALETTE[1]),
        _area(days, series["down"], "in repair", PALETTE[3]),
    ]
    yield Figure(
        "boards", "Boards by what they do: running, idle while jobs wait (fragmented or blocked), in repair.",
        areas, _axes("days", "boards"), 320,
    )  # fmt: skip
    queue = [
        _line(days, series["queued_jobs"], "jobs", BLUE),
        _line(days, series["queued_boards"], "boards they want", PALETTE[1]),
    ]
    yield Figure("queue", "Jobs that wait, and the boards that they ask for.", queue, _axes("days", "waiting"), 260)
    if any(series["watts"]):
        kilowatts = [watts / 1000 for watts in series["watts"]]
        line = [_line(days, kilowatts, "power", BLUE)]
        yield Figure("power", "Power of the nodes, before network and cooling.", line, _axes("days", "kW"), 240)


def _axes(x: str, y: str) -> dict[str, Any]:
    return {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}, "rangemode": "tozero"}}


def _line(x: Sequence[float], y: Sequence[float], name: str, colour: str) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "x": list(x), "y": list(y), "name": name,
        "line": {"color": colour, "width": 1.5, "shape": "hvh"},
    }  # fmt: skip


def _area(x: Sequence[float], y: Sequence[float], name: str, colour: str) -> dict[str, Any]:
    return _line(x, y, name, colour) | {"stackgroup": "one", "fillcolor": colour, "line": {"width": 0, "shape": "hvh"}}


def _shares(result: FleetResult) -> Iterator[Part]:
    hours = {BOARD_LABELS[name]: seconds / 3600 for name, seconds in result.board_seconds.items() if seconds}
    if hours:
        text = "Where the time of all boards goes"
        yield share_chart("board-hours", text, hours, lambda value: f"{human.digits(value)} board-hours")


def _on_nodes(events: Sequence[FleetEvent], nodes: Sequence[str], end: float) -> Iterator[Part]:
    """Jobs as bars on the rows of their nodes."""
    spans = list(_spans(events, end))
    shown = [span for span in spans if span[0] < MOST_NODES][:MOST_SPANS]
    if not shown:
        return
    if len(shown) < len(spans):
        until = human.duration(max(begin for _, begin, _, _ in shown))
        yield note(
            f"The first {MOST_NODES} nodes and {MOST_SPANS:,} stays of jobs on nodes, which begin within {until}."
        )
    jobs = {job: number for number, job in enumerate(dict.fromkeys(span[3] for span in shown))}
    data = [
        {
            "type": "bar", "orientation": "h",
            "y": [nodes[node] for node, *_ in shown],
            "x": [(stop - begin) / DAY for _, begin, stop, _ in shown],
            "base": [begin / DAY for _, begin, _, _ in shown],
            "customdata": [f"{job}: {human.duration(stop - begin)}" for _, begin, stop, job in shown],
            "hovertemplate": "%{y}, day %{base:.3f}<br>%{customdata}<extra></extra>",
            "marker": {"color": [PALETTE[jobs[job] % len(PALETTE)] for *_, job in shown], "opacity": 0.6},
        }
    ]  # fmt: skip
    names = list(dict.fromkeys(nodes[node] for node in sorted({span[0] for span in shown})))
    layout = {
        "barmode": "overlay", "showlegend": False, "bargap": 0.1,
        "xaxis": {"title": {"text": "days"}},
        "yaxis": {"autorange": "reversed", "categoryorder": "array", "categoryarray": names},
    }  # fmt: skip
    text = "Which jobs were on which node; several jobs of one node lie over one another."
    yield Figure("nodes", text, data, layout, min(900, 120 + 16 * len(names)))


def _spans(events: Sequence[FleetEvent], end: float) -> Iterator[tuple[int, float, float, str]]:
    """Node, begin, end [s] and job of each stay of a job on a node, by begin."""
    begun: dict[str, FleetEvent] = {}
    found = []
    for event in events:
        if event.what in LEAVES and event.job in begun:
            since = begun.pop(event.job)
            found += [(node, since.time, event.time, event.job) for node in since.nodes]
        if event.what == "start":
            begun[event.job] = event
    found += [(node, since.time, end, job) for job, since in begun.items() for node in since.nodes]
    yield from sorted((span for span in found if span[2] > span[1]), key=lambda span: (span[1], span[0]))


def _waiting(result: FleetResult, rows: Sequence[JobRow]) -> Iterator[Part]:
    waits = sorted(row.queue_s for row in rows if row.queue_s is not None)
    if waits:
        picked = [waits[min(len(waits) - 1, round(share * (len(waits) - 1) / 200))] for share in range(201)]
        shares = [share / 2 for share in range(201)]
        layout = {
            "xaxis": {"title": {"text": "hours"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": "% of jobs that wait no longer"}},
        }
        line = [_line([wait / 3600 for wait in picked], shares, "jobs", BLUE)]
        yield Figure("waits", "How long jobs wait: share of jobs by time.", line, layout, 280)
    for label, groups in (("boards", result.by_size), ("user", result.by_user), ("queue", result.by_queue)):
        if len(groups) > 1:
            yield _groups(label, groups)


def _groups(label: str, groups: Mapping[str, FleetGroup]) -> str:
    head = (label, "jobs", "mean completion", "mean waiting", "board-hours", "cost")
    rows: Iterator[list[Cell]] = (
        [
            name,
            (group.jobs, human.count(group.jobs)),
            (group.avg_jct_s, human.duration(group.avg_jct_s)),
            (group.avg_queue_s, human.duration(group.avg_queue_s)),
            (group.board_s, human.count(group.board_s / 3600)),
            "" if group.cost_usd is None else (group.cost_usd, human.money(group.cost_usd)),
        ]
        for name, group in groups.items()
    )
    return table(head, rows, f"by-{label}", filtered=len(groups) > 20)


def _jobs(rows: Sequence[JobRow]) -> Iterator[Part]:
    if len(rows) > MOST_ROWS:
        yield note(f"The first {MOST_ROWS:,} of {len(rows):,} jobs; --csv writes all.")
    head = ("job", "user", "boards", "submitted", "waited", "completion", "stops", "failures", "state")
    cells: Iterator[list[Cell]] = (
        [
            row.job,
            row.user or row.queue,
            (row.gpus, f"{row.gpus:g}"),
            (row.submit_s, human.duration(row.submit_s)),
            "" if row.queue_s is None else (row.queue_s, human.duration(row.queue_s)),
            "" if row.jct_s is None else (row.jct_s, human.duration(row.jct_s)),
            (row.preemptions, str(row.preemptions)),
            (row.failures, str(row.failures)),
            row.state,
        ]
        for row in rows[:MOST_ROWS]
    )
    yield table(head, cells, "jobs", filtered=True)


def many_page(name: str, keys: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """The page of many lives: a bar chart for each quantity, and the table."""
    found = means(keys, rows)
    told = list(found[0][2]) if found else []
    labels = [", ".join(values) or "all" for values, _, _ in found]
    parts: list[Part] = []
    for quantity in told:
        title, say = SHOWN[quantity]
        values = [numbers[quantity] for _, _, numbers in found]
        data = [
            {
                "type": "bar", "x": labels, "y": values, "marker": {"color": BLUE},
                "customdata": [say(value) for value in values], "hovertemplate": "%{x}: %{customdata}<extra></extra>",
                "text": [say(value) for value in values], "textposition": "auto",
            }
        ]  # fmt: skip
        layout = {"yaxis": {"showticklabels": False, "rangemode": "tozero"}, "xaxis": {"type": "category"}}
        parts.append(Figure(quantity, f"{title.capitalize()} by {', '.join(keys) or 'seed'}.", data, layout, 240))
    head = (*keys, "seeds", *(SHOWN[quantity][0] for quantity in told))
    cells: Iterator[list[Cell]] = (
        [*values, (seeds, str(seeds)), *((numbers[each], SHOWN[each][1](numbers[each])) for each in told)]
        for values, seeds, numbers in found
    )
    return page(name, f"{len(rows)} lives", [Section("Table", [table(head, cells, "lives")]), Section("Charts", parts)])
