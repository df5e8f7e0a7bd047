"""The explanation of a run in words and numbers, for 80 columns.

Public: `print_why`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sim.metrics.critical_path import Overlap, PathPart, Slack
from sim.metrics.sensitivity import Sensitivity
from sim.metrics.why import Idea, Why
from sim.report import human
from sim.report.text import LABELS

BOUND = {"work": "kernels", "bandwidth": "bandwidth", "latency": "latency"}
STREAMS = {
    "compute": "computation",
    "send": "sends",
    "gradient": "gradient traffic",
    "replica": "gradient traffic of replicas",
    "second_copy": "gathers of the second copy of weights",
    "tensor": "tensor-parallel traffic",
    "context": "context-parallel traffic",
    "embedding": "embedding gradients",
}
NO_GAIN = 5e-4  # relative change that counts as none


def print_why(why: Why, console: Console) -> None:
    """Print the explanation."""
    step = why.result.step.time_s
    console.print(Text(f"{why.result.name}: why a step takes {human.step_time(step)}", style="bold"))
    _section(console, "The critical path", [_path_table(why.path, step)])
    _section(console, "Communication", [_overlap_table(why.overlaps), *_hidden(why.overlaps)])
    _section(console, "Slack of the rest", [_slack_table(why.slack)])
    _section(console, f"What {why.by:.0%} more of a resource changes", [_resource_table(why.resources)])
    _section(console, "Worth trying", [*_ideas(why.ideas), Text(_tried(why), style="dim")])


def _section(console: Console, title: str, parts: Sequence[Table | Text]) -> None:
    console.print(Text(f"\n{title}", style="bold"))
    for part in parts:
        console.print(Padding(part, (0, 0, 0, 2)))


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    return table


def _path_table(path: Sequence[PathPart], step: float) -> Table:
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for part in path:
        seconds[part.category, part.bound] += part.seconds
    table = _table("on the path", "bound by", "seconds", "of the step")
    for (category, bound), each in sorted(seconds.items(), key=lambda item: -item[1]):
        if each > 1e-4 * step:
            table.add_row(
                LABELS.get(category, category), BOUND[bound], human.step_time(each), human.percent(each / step)
            )
    return table


def _overlap_table(overlaps: Sequence[Overlap]) -> Table | Text:
    if not overlaps:
        return Text("None.")
    table = _table("communication", "in flight", "exposed", "hidden")
    for each in overlaps:
        hidden = max(0.0, each.total - each.exposed)
        cells = (human.step_time(seconds) for seconds in (each.total, each.exposed, hidden if hidden > 1e-9 else 0.0))
        table.add_row(LABELS.get(each.category, each.category), *cells)
    return table


def _hidden(overlaps: Sequence[Overlap]) -> Iterator[Text]:
    for each in overlaps:
        beside = sorted(each.hidden_by.items(), key=lambda item: -item[1])
        large = [name for name, seconds in beside if seconds > 0.01 * each.total]
        if large:
            yield Text(f"{LABELS.get(each.category, each.category)} runs beside {', '.join(large)}")


def _slack_table(slack: Sequence[Slack]) -> Table | Text:
    """Streams of one kind together: the least and the most slack over stages."""
    kinds: dict[str, list[Slack]] = defaultdict(list)
    for each in slack:
        kinds[each.kind].append(each)
    table = _table("stream", "least slack", "most slack", "busy")
    for kind, mine in kinds.items():
        least, most = min(each.slack for each in mine), max(each.slack for each in mine)
        busy = max(each.busy for each in mine)
        table.add_row(STREAMS.get(kind, kind), *(human.step_time(seconds) for seconds in (least, most, busy)))
    return table


def _resource_table(resources: Sequence[Sensitivity]) -> Table:
    """Changes of the step time and, where it is another, of the time to train."""
    table = _table("resource", "step time", "time to train", "energy", "cost")
    for each in resources:
        if each.problem:
            table.add_row(each.resource, each.problem)
            continue
        shown = (each.change.get(name) for name in ("step_time", "time_to_train", "energy", "cost"))
        table.add_row(each.resource, *map(_change, shown))
    return table


def _change(change: float | None) -> str:
    if change is None:
        return "-"
    return human.signed_percent(change) if abs(change) >= NO_GAIN else "none"


def _ideas(ideas: Sequence[Idea]) -> Iterator[Text]:
    for number, idea in enumerate(ideas, 1):
        yield Text(
            f"{number}. {idea.words}: {human.signed_percent(idea.gain)} tokens/s, step {human.step_time(idea.step_s)}"
        )
        yield Text("   " + " ".join(f"--set {key}={_value(value)}" for key, value in idea.changes.items()), style="dim")
    if not ideas:
        yield Text("No single change of plan or precision gains anything.")


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _tried(why: Why) -> str:
    return f"{why.tried} single changes that fit were simulated; accuracy of training was not looked at"
