"""A result as text: made for 80 columns, no colour needed, sober on paper and in a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import StringIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sim.metrics.memory import UNKNOWN
from sim.metrics.result import (
    BREAKDOWN,
    Comparison,
    KindUse,
    LinkUse,
    MemoryResult,
    Result,
    RunResult,
    StackRange,
    StepResult,
    Trust,
)
from sim.report import human
from sim.report.energy import cost_rows, energy_rows
from sim.report.layout import ASCII_FILL, BLOCK_FILL, grid, labelled, section, share_row
from sim.report.long_run import interval_rows, long_run
from sim.report.replay import replay_parts
from sim.report.storage import checkpoint_rows, input_rows, preparation_rows
from sim.report.synchrony import synchrony_rows

LABELS = {
    "compute": "compute",
    "tensor_comm": "tensor parallel",
    "context_comm": "context parallel",
    "expert_comm": "expert parallel",
    "pipeline_comm": "pipeline sends",
    "data_comm": "data parallel",
    "host_comm": "copies to host",
    "bubble": "pipeline bubble",
    "optimizer": "optimizer",
    "input_stall": "input stall",
    "other": "other",
}
METRICS = {
    "step_time_s": ("step time", human.step_time),
    "samples_per_s": ("samples/s", human.digits),
    "tokens_per_s": ("tokens/s", human.digits),
    "tokens_per_s_per_accelerator": ("tokens/s per accelerator", human.digits),
    "model_tflops_per_accelerator": ("TFLOP/s per accelerator", human.digits),
}
KINDS = 8  # kinds of links shown
MOST = 2  # parts of memory told of a moment
WORTH_TELLING = 0.01  # share of a step that one kind of node waits for another


def print_report(result: Result, console: Console) -> None:
    """Print the whole report of one run."""
    console.print(report(result, console.options.ascii_only), highlight=False)


def report_text(result: Result, width: int = 80) -> str:
    """The report as plain text of at most `width` columns."""
    buffer = StringIO()
    print_report(result, Console(file=buffer, width=width, color_system=None, force_terminal=False))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def report(result: Result, ascii_only: bool = False) -> RenderableType:
    """All sections of the report, one below the other."""
    fill = ASCII_FILL if ascii_only else BLOCK_FILL
    return Group(
        *_did_not_finish(result.run),
        *_headline(result),
        *section("Result", _key_figures(result)),
        *section("Where the step goes", _breakdown(result.step, fill), _overlap(result)),
        *section("Recorded and replayed", *(replay_parts(result.replay) if result.replay else ())),
        *section(f"Memory of the fullest {_device(result)}", *_memory_parts(result.memory, fill)),
        *section("Kinds of node", *kinds_of_node(result.kinds)),
        *section("Links", _links(result.utilization.links)),
        *section("Workers out of step", labelled(list(synchrony_rows(result)))),
        *section("Preparation of training data", labelled(list(preparation_rows(result)))),
        *section("Training data", labelled(list(input_rows(result)))),
        *section("Checkpoints", labelled([*checkpoint_rows(result), *interval_rows(result.run)])),
        *(long_run(result.run, fill) if result.run else ()),
        *section("Energy", labelled(list(energy_rows(result)))),
        *section("Cost", labelled(list(cost_rows(result.cost)) if result.cost else [])),
        *section("Notes", *_notes(result)),
        *section("Simulation", _simulation(result)),
    )


def kinds_of_node(kinds: Sequence[KindUse]) -> Iterator[RenderableType]:
    """What each of several kinds of node does in a step, and whom the others wait for."""
    if not kinds:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("", overflow="fold")
    for name in ("computes", "communicates", "waits", "memory"):
        table.add_column(name, justify="right", overflow="fold")
    for kind in kinds:
        times = map(human.step_time, (kind.compute_s, kind.communication_s, kind.waiting_s))
        room = f"{human.size(kind.memory_bytes)} of {human.size(kind.capacity_bytes)}"
        table.add_row(f"{kind.nodes} x {kind.node} ({kind.accelerator})", *times, room)
    yield table
    for kind in kinds:
        for other, seconds in kind.waits_for_s.items():
            if seconds > WORTH_TELLING * (kind.compute_s + kind.communication_s + kind.waiting_s):
                yield Text(f"{kind.node} waits {human.step_time(seconds)} for {other}")


def _did_not_finish(run: RunResult | None) -> Iterator[RenderableType]:
    """What comes first where a run never ends: that, why, and what would help."""
    if run is None or run.finished:
        return
    yield Text("DID NOT FINISH", style="bold red") + Text(f": {'; '.join(run.why_unfinished)}", style="not bold")
    for remedy in run.what_helps:
        yield bullet(f"would help: {remedy}")
    yield Text()


def bullet(text: str) -> RenderableType:
    """A line of a list, which wraps under itself."""
    row = Table.grid(padding=(0, 1))
    row.add_row("-", text)
    return row


def _headline(result: Result) -> Iterator[RenderableType]:
    yield Text(result.name, style="bold") + Text(
        f"  {result.description}" if result.description else "", style="not bold"
    )
    table = grid("left", "fold")
    table.add_row("accelerators", human.count(result.accelerators))
    if result.accelerators_idle:
        table.add_row("IDLE", idle_warning(result), style="bold red")
    for label, value in settings(result):
        table.add_row(label, value)
    if result.stacks:
        table.add_row("", stack_range(result.stacks))
    yield Padding(table, (0, 0, 0, 2))


def settings(result: Result) -> Iterator[tuple[str, str]]:
    """The plan, each setting with its label; active parameters where they are not all."""
    for label, value in result.setup.items():
        if label != "active_parameters" or value != result.setup["parameters"]:
            yield label.replace("_", " "), value if isinstance(value, str) else human.count(value)


def stack_range(stacks: StackRange) -> str:
    """How the step time differs over the stacks that could run the plan."""
    fastest, slowest = human.step_time(stacks.fastest_s), human.step_time(stacks.slowest_s)
    return (
        f"{stacks.stacks} stacks could run this plan: step {fastest} ({stacks.fastest}) to {slowest} "
        f"({stacks.slowest}); name yours with `software:`"
    )


def idle_warning(result: Result) -> str:
    """How many accelerators the plan leaves without work, and what would give them some."""
    idle, size = result.accelerators_idle, result.accelerators + result.accelerators_idle
    way_out = "leave parallelism.data out to use all, or lower nodes"
    return f"{human.count(idle)} of {human.count(size)} accelerators, powered and paid for: {way_out}"


def _device(result: Result) -> str:
    return str(result.setup.get("accelerator", "accelerator"))


# --- key figures ----------------------------------------------------------------------------


def _key_figures(result: Result) -> RenderableType:
    step = result.step
    table = grid("left", "fold")
    table.add_row("step time", Text(human.step_time(step.time_s), style="bold"))
    table.add_row("throughput", human.throughput(step.samples_per_s, step.tokens_per_s))
    if step.hfu:  # nobody knows the FLOPs of a recorded step
        table.add_row("per accelerator", _per_accelerator(step))
    if result.run:
        table.add_row("time to train", _time_to_train(result.run))
    if result.trust:
        table.add_row("trust", _trust(result.trust))
    if result.comparison:
        table.add_row("measured", _comparison(result.comparison))
    return table


def _trust(trust: Trust) -> str:
    """The band, what it rests on, and in which respects the run is beyond that."""
    nearest = f"nearest of {trust.runs}: {trust.basis}"
    if trust.band is None:
        band = f"NOT VALIDATED: no measured run is near ({nearest})"
    else:
        share = f"{trust.coverage * 10:.0f} of 10 validated runs like this"
        band = f"±{trust.band * 100:.0f} % in step time (held {share}; {nearest})"
    return "\n".join([band, *(f"extrapolates: {respect}" for respect in trust.extrapolates)])


def _per_accelerator(step: StepResult) -> str:
    rate = human.digits(step.model_tflops_per_accelerator)
    return f"{rate} TFLOP/s, MFU {human.percent(step.mfu)}, HFU {human.percent(step.hfu)}"


def _time_to_train(run: RunResult) -> str:
    spread = run.time_to_train_s
    if not run.finished:
        return f"not reached: {human.duration(spread['mean'])} until the end, {human.count(run.steps)} steps done"
    text = f"{human.duration(spread['mean'])}, {human.count(run.steps)} steps"
    if spread["p5"] < spread["p95"]:
        text += f" (90 % between {human.duration(spread['p5'])} and {human.duration(spread['p95'])})"
    return text if run.goodput >= 1 else f"{text}, goodput {human.percent(run.goodput)}"


def _comparison(comparison: Comparison) -> Text:
    label, show = METRICS.get(comparison.metric, (comparison.metric, human.digits))
    text = Text(f"{label} {show(comparison.measured)}, predicted {show(comparison.predicted)}: ")
    text.append(f"{human.signed_percent(comparison.error)} in step time", style="bold")
    if comparison.tolerance is not None:
        text.append(_within(comparison.error, comparison.tolerance))
    return text.append(f"\n{comparison.source}", style="dim")


def _within(error: float, tolerance: float) -> Text:
    if abs(error) <= tolerance:
        return Text(f", within {human.percent(tolerance)}", style="green")
    return Text(f", OUTSIDE {human.percent(tolerance)}", style="bold red")


# --- breakdown ------------------------------------------------------------------------------


def _breakdown(step: StepResult, fill: str) -> RenderableType:
    size, unit = human.pick(step.time_s, human.STEP)
    table = grid("left", "right", "right", "left")
    for part in BREAKDOWN:
        seconds = step.breakdown_s.get(part, 0.0)
        if seconds > 0:
            table.add_row(*share_row(LABELS[part], seconds, step.time_s, size, unit, fill))
    table.add_row("step", f"{step.time_s / size:,.3f} {unit}", human.percent(1.0), style="bold")
    return table


def _overlap(result: Result) -> RenderableType | None:
    step, busy = result.step, result.utilization.accelerator
    lines = []
    if step.comm_total_s > 0:
        hidden = human.percent(step.comm_overlapped_s / step.comm_total_s)
        lines.append(f"communication in flight {human.step_time(step.comm_total_s)}, {hidden} of it not exposed")
    if busy:
        lines.append(", ".join(f"{key.replace('_', ' ')} {human.percent(share)}" for key, share in busy.items()))
    return Text("\n".join(lines), style="dim") if lines else None


# --- memory ---------------------------------------------------------------------------------


def _memory_parts(memory: MemoryResult, fill: str) -> tuple[RenderableType, ...]:
    """What lies there, and whether it fits; nothing where nobody knows."""
    return () if memory.verdict == UNKNOWN else (_memory(memory, fill), _verdict(memory))


def _memory(memory: MemoryResult, fill: str) -> RenderableType:
    size, unit = human.pick(memory.capacity_bytes, human.SIZE)
    table = grid("left", "right", "right", "left")
    for label, part in memory.parts.items():
        if part > 0:
            table.add_row(*share_row(label, part, memory.capacity_bytes, size, unit, fill))
    share = memory.peak_bytes_per_accelerator / memory.capacity_bytes
    peak = f"{memory.peak_bytes_per_accelerator / size:,.3f} {unit}"
    table.add_row("peak", peak, human.percent(share), f"of {human.size(memory.capacity_bytes)}", style="bold")
    for moment, parts in memory.moments.items():
        total = sum(parts.values())
        most = " and ".join(sorted(parts, key=lambda part: -parts[part])[:MOST])
        table.add_row(
            moment, f"{total / size:,.3f} {unit}", human.percent(total / memory.capacity_bytes), most, style="dim"
        )
    if memory.host_bytes:
        table.add_row("host", f"{memory.host_bytes / size:,.3f} {unit}", "", "memory of a node", style="dim")
    return table


def _verdict(memory: MemoryResult) -> RenderableType:
    left = memory.capacity_bytes - memory.peak_bytes_per_accelerator
    if memory.verdict == "tight":
        room = f"{human.size(left)} free" if memory.fits else f"{human.size(-left)} too much"
        within = f", {room}, less than the error of such predictions ({human.percent(memory.error)})"
        verdict = Text("TIGHT", style="bold yellow") + Text(within, style="not bold")
    elif memory.fits:
        verdict = Text("FITS", style="bold green") + Text(f", {human.size(left)} free", style="not bold")
    else:
        verdict = Text("DOES NOT FIT", style="bold red") + Text(f", {human.size(-left)} too much", style="not bold")
    return verdict + Text(_stages(memory), style="not bold")


def _stages(memory: MemoryResult) -> str:
    if len(memory.by_stage) < 2:
        return ""
    totals = [sum(stage.values()) for stage in memory.by_stage]
    fullest = totals.index(max(totals))
    return f"; {len(totals)} stages from {human.size(min(totals))} to {human.size(totals[fullest])} (stage {fullest})"


# --- links, notes, simulation -----------------------------------------------------------------


def _links(links: tuple[LinkUse, ...]) -> RenderableType | None:
    busiest = _busiest(links)
    if not busiest:
        return None
    table = grid("left", "right", "fold", "right", "right", "right", gap=1)  # names are long
    table.add_row("kind", "links", "busiest", "mean", "peak", "per step", style="dim")
    for link, total in busiest[:KINDS]:
        shares = human.percent(link.mean), human.percent(link.peak)
        table.add_row(link.kind, human.count(total), link.name, *shares, human.traffic(link.bytes))
    if len(busiest) > KINDS:
        table.add_row(f"and {len(busiest) - KINDS} more", style="dim")
    return table


def _busiest(links: tuple[LinkUse, ...]) -> list[tuple[LinkUse, int]]:
    """For each kind of link its busiest class, and how many used links there are of the kind."""
    first: dict[str, LinkUse] = {}
    total: dict[str, int] = {}
    for link in links:
        if link.bytes > 0:
            first.setdefault(link.kind, link)
            total[link.kind] = total.get(link.kind, 0) + link.count
    return [(link, total[kind]) for kind, link in first.items()]


def _notes(result: Result) -> Iterator[RenderableType]:
    yield from map(bullet, result.notes)


def _simulation(result: Result) -> RenderableType:
    rate = f" ({human.digits(result.events / result.wall_s)} events/s)" if result.wall_s > 0 else ""
    lines = [f"{human.count(result.events)} events in {human.duration(result.wall_s)}{rate}"]
    lines += _folding(result.folding)
    lines.append(f"seed {result.seed}, clustersim {result.version}")
    return Text("\n".join(lines), style="dim")


def _folding(folding: dict[str, int]) -> list[str]:
    names = {"rank": "ranks", "link": "links", "flow": "flows"}
    parts = []
    for single, plural in names.items():
        classes = folding.get(f"{single}_classes")
        if classes is not None:
            total = folding.get(plural)
            parts.append(f"{f'{human.count(total)} ' if total else ''}{plural} to {human.count(classes)}")
    text = [f"folded: {', '.join(parts)} classes"] if parts else []
    skipped = folding.get("skipped_periods", 0)
    return [*text, f"{human.count(skipped)} repeating periods advanced at once"] if skipped else text
