"""The page of one run: numbers first, then where the time, the bytes, the joules and the money go.

Public: `run_page`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

from sim.metrics.memory import UNKNOWN
from sim.metrics.pictures import Pictures
from sim.metrics.result import (
    CostResult,
    EnergyResult,
    KindUse,
    MemoryResult,
    ReplayResult,
    Result,
    RunResult,
    StepResult,
)
from sim.report import human
from sim.report.page.charts import (
    breakdown_chart,
    communication_chart,
    memory_chart,
    pipeline_chart,
    power_chart,
    roofline_chart,
    run_power_chart,
    share_chart,
)
from sim.report.page.frame import Cell, Part, Section, cards, code, note, page, table
from sim.report.page.long_run import long_run_parts
from sim.report.page.network import network_chart
from sim.report.replay import signed_time, starts_apart
from sim.report.sentence import in_one_sentence
from sim.report.storage import Row, input_rows, preparation_rows
from sim.report.synchrony import synchrony_rows
from sim.report.text import LABELS, METRICS, idle_warning, settings, stack_range

RUN = "run"  # the level of power over the whole run
SHOWN_OPERATIONS = 40


def run_page(result: Result, drawn: Pictures | None, written: str) -> str:
    """The page of a result. drawn: what the pictures show, if the step can be simulated again; written: the input."""
    warnings = [idle_warning(result)] if result.accelerators_idle else []
    sections = [
        Section("Did not finish", [*map(note, _ending(result.run))]),
        Section("Result", [cards(_headlines(result)), *map(note, (*warnings, *result.notes)), _setup(result)]),
        Section("Where the step goes", [breakdown_chart(result.step), _breakdown_table(result.step)]),
        Section("Both ways" if result.replay else "Pipeline", [pipeline_chart(drawn.pipeline)] if drawn else []),
        Section("Recorded and replayed", _replay(result.replay) if result.replay else []),
        Section("Memory", _memory(result.memory)),
        Section("Kinds of node", _kinds(result.kinds)),
        Section("Network", _network(result, drawn)),
        Section(
            "Communication", [communication_chart(drawn.overlaps), _overlaps(drawn)] if drawn and drawn.overlaps else []
        ),
        Section("Operations", [roofline_chart(drawn), _operations(drawn)] if drawn else []),
        Section("Workers out of step", _rows(synchrony_rows(result))),
        Section("Preparation of training data", _rows(preparation_rows(result))),
        Section("Training data", _rows(input_rows(result))),
        Section("Power and energy", list(_energy(result.energy)) if result.energy else []),
        Section("The long run", list(long_run_parts(result.run)) if result.run else []),
        Section("Cost", list(_cost(result.cost)) if result.cost else []),
        Section("Input", [code(written, "the resolved input")]),
    ]
    what = result.description or str(result.setup.get("workload", ""))
    return page(result.name, f"{what}. {in_one_sentence(result)}", sections)


def _headlines(result: Result) -> Iterator[tuple[str, str, str]]:
    step, memory = result.step, result.memory
    band = ""
    if result.trust:
        known = result.trust.band
        band = "NOT VALIDATED" if known is None else f"±{known:.0%}, as {result.trust.runs} validated runs like it"
    yield "step time", human.step_time(step.time_s), band
    yield (
        "throughput",
        human.throughput(step.samples_per_s, step.tokens_per_s),
        f"{human.count(result.accelerators)} accelerators",
    )
    if step.hfu:  # nobody knows the FLOPs of a recorded step
        yield (
            "model FLOP utilization",
            human.percent(step.mfu),
            f"{human.digits(step.model_tflops_per_accelerator)} TFLOP/s each",
        )
    yield from _recorded_headline(result)
    if result.accelerators_idle:
        size = human.count(result.accelerators + result.accelerators_idle)
        yield "IDLE accelerators", human.count(result.accelerators_idle), f"of the {size} that are powered and paid for"
    yield from _memory_headline(memory)
    if result.run and result.run.finished:
        steps = f"{human.count(result.run.steps)} steps, goodput {human.percent(result.run.goodput)}"
        yield "time to train", human.duration(result.run.time_to_train_s["mean"]), steps
    elif result.run:
        yield "DID NOT FINISH", human.duration(result.run.elapsed_s), f"{human.count(result.run.steps)} steps done"
    if result.energy:
        power = f"{human.power(result.energy.mean_power_w)} on average"
        yield "energy", human.energy(result.energy.total_kwh), power
        if result.energy.carbon_kg is not None:
            yield "carbon", f"{human.carbon(result.energy.carbon_kg)} CO2e", ""
    if result.cost:
        yield "cost", human.money(result.cost.usd["total"]), result.cost.basis
    if result.comparison:
        measured = f"{human.signed_percent(result.comparison.error)} in step time"
        label, spell = METRICS[result.comparison.metric]
        yield f"measured {label}", spell(result.comparison.measured), measured


def _recorded_headline(result: Result) -> Iterator[tuple[str, str, str]]:
    if result.replay:
        recorded = result.replay.recorded_s
        yield "recorded step", human.step_time(recorded), human.signed_percent(result.step.time_s / recorded - 1)


def _memory_headline(memory: MemoryResult) -> Iterator[tuple[str, str, str]]:
    verdict = {"fits": "FITS into", "tight": "TIGHT in"}.get(memory.verdict, "DOES NOT FIT into")
    if memory.verdict != UNKNOWN:
        yield "memory", human.size(memory.peak_bytes_per_accelerator), f"{verdict} {human.size(memory.capacity_bytes)}"


def _ending(run: RunResult | None) -> Iterator[str]:
    """Why a run never ends, and what would help."""
    if run and not run.finished:
        yield f"DID NOT FINISH: {'; '.join(run.why_unfinished)}"
        yield from (f"would help: {remedy}" for remedy in run.what_helps)


def _setup(result: Result) -> str:
    trust = []
    if result.trust:
        trust = [["nearest validated run", result.trust.basis]]
        trust += [["extrapolates", respect] for respect in result.trust.extrapolates]
    stacks = [["other software", stack_range(result.stacks)]] if result.stacks else []
    return table(("", ""), [*(list(setting) for setting in settings(result)), *stacks, *trust])


def _breakdown_table(step: StepResult) -> str:
    rows: Iterator[list[Cell]] = (
        [
            LABELS.get(part, part),
            (seconds, human.step_time(seconds)),
            (seconds / step.time_s, human.percent(seconds / step.time_s)),
        ]
        for part, seconds in _largest_first(step.breakdown_s)
        if seconds > 0
    )
    return table(("part", "exposed time", "share"), rows)


def _replay(replay: ReplayResult) -> list[Part]:
    """Kind by kind, what was recorded and what it is in the replay."""
    rows: Iterator[list[Cell]] = (
        [
            name,
            (each.nodes, human.count(each.nodes)),
            (each.recorded_s, human.step_time(each.recorded_s)),
            (each.replayed_s, human.step_time(each.replayed_s)),
            (each.apart_s, signed_time(each.apart_s)),
        ]
        for name, each in replay.kinds.items()
    )
    heads = ("kind", "nodes", "recorded, a rank", "replayed, a rank", "begins later by")
    return [table(heads, rows), note(starts_apart(replay))]


def _kinds(kinds: Sequence[KindUse]) -> list[Part]:
    """What each of several kinds of node does in a step."""
    rows: list[list[Cell]] = [
        [
            f"{kind.nodes} x {kind.node} ({kind.accelerator})",
            *(
                (seconds, human.step_time(seconds))
                for seconds in (kind.compute_s, kind.communication_s, kind.waiting_s)
            ),
            (kind.memory_bytes, f"{human.size(kind.memory_bytes)} of {human.size(kind.capacity_bytes)}"),
        ]
        for kind in kinds
    ]
    return [table(("", "computes", "communicates", "waits", "memory"), rows)] if rows else []


def _rows(rows: Iterable[Row]) -> list[Part]:
    """Lines of the report as a table; none if there are none."""
    lines: list[list[Cell]] = [list(row) for row in rows]
    return [table(("", "", ""), lines)] if lines else []


def _memory(memory: MemoryResult) -> list[Part]:
    return [] if memory.verdict == UNKNOWN else [memory_chart(memory), _memory_table(memory)]


def _memory_table(memory: MemoryResult) -> str:
    rows: Iterator[list[Cell]] = (
        [part, (size, human.size(size)), (size / memory.capacity_bytes, human.percent(size / memory.capacity_bytes))]
        for part, size in _largest_first(memory.parts)
    )
    moments: Iterator[list[Cell]] = (
        [f"peak at {moment}", (total, human.size(total)), (share, human.percent(share))]
        for moment, total, share in _peaks(memory)
    )
    return table(("part of the fullest stage", "size", "of capacity"), chain(rows, moments))


def _largest_first(parts: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(parts.items(), key=lambda item: -item[1])


def _peaks(memory: MemoryResult) -> Iterator[tuple[str, float, float]]:
    for moment, parts in memory.moments.items():
        total = sum(parts.values())
        yield moment, total, total / memory.capacity_bytes


def _network(result: Result, drawn: Pictures | None) -> list[Part]:
    links = result.utilization.links
    rows: Iterator[list[Cell]] = (
        [
            use.kind,
            (use.count, human.count(use.count)),
            use.name,
            (use.mean, human.percent(use.mean)),
            (use.peak, human.percent(use.peak)),
            (use.bytes, human.traffic(use.bytes)),
        ]
        for use in links
    )
    if not links:
        return [note("No link carries anything.")]
    return [
        *([network_chart(drawn.network)] if drawn else []),
        table(("kind", "links", "one of them", "mean", "peak", "per step"), rows, "links", filtered=True),
    ]


def _overlaps(drawn: Pictures) -> str:
    rows: list[list[Cell]] = []
    for each in drawn.overlaps:
        hiding = ", ".join(
            f"{name} {human.step_time(seconds)}" for name, seconds in each.hidden_by.items() if seconds > 0
        )
        hidden = max(0.0, each.total - each.exposed)
        rows.append(
            [
                LABELS.get(each.category, each.category),
                (each.total, human.step_time(each.total)),
                (each.exposed, human.step_time(each.exposed)),
                (hidden, human.step_time(hidden)),
                hiding,
            ]
        )
    return table(("communication", "in flight", "exposed", "hidden", "beside it"), rows)


def _operations(drawn: Pictures) -> str:
    work = sorted(drawn.work, key=lambda each: -each.seconds * each.times)[:SHOWN_OPERATIONS]
    rows: Iterator[list[Cell]] = (
        [
            each.name,
            each.kind,
            (each.times, human.count(each.times)),
            (each.seconds, human.step_time(each.seconds)),
            (each.seconds * each.times, human.step_time(each.seconds * each.times)),
            (
                each.flops / each.seconds if each.seconds else 0.0,
                human.digits(each.flops / each.seconds / 1e12) if each.seconds else "",
            ),
        ]
        for each in work
    )
    return table(("operation", "kind", "times", "each", "together", "TFLOP/s"), rows, "operations", filtered=True)


def _energy(energy: EnergyResult) -> Iterator[Part]:
    levels = {name: level for name, level in energy.power.items() if name != RUN}
    if levels:
        yield power_chart(levels)
    if RUN in energy.power:
        yield run_power_chart(energy.power[RUN])
    yield share_chart("energy", "Energy by part", energy.parts_kwh, human.energy)
    rows: list[list[Cell]] = [
        [part.replace("_", " "), (kwh, human.energy(kwh))] for part, kwh in _largest_first(energy.parts_kwh)
    ]
    rows.append(["total", (energy.total_kwh, human.energy(energy.total_kwh))])
    rows.append(["board limit x hours, as model cards count", (energy.tdp_kwh, human.energy(energy.tdp_kwh))])
    yield table(("part", "energy"), rows)


def _cost(cost: CostResult) -> Iterator[Part]:
    parts = {part: usd for part, usd in cost.usd.items() if part != "total"}
    rows: list[list[Cell]] = [[part.replace("_", " "), (usd, human.money(usd))] for part, usd in _largest_first(parts)]
    yield table(("part", "cost"), [*rows, ["total", (cost.usd["total"], human.money(cost.usd["total"]))]])
    if cost.purchase_usd is not None:
        yield note(f"purchase price {human.money(cost.purchase_usd)} for servers and network")
    if cost.usd_per_million_tokens is not None:
        yield note(f"{human.digits(cost.usd_per_million_tokens)} USD per million tokens; {cost.basis}")
