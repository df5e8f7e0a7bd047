"""The charts of a page as Plotly figures in plain data.

Colours are those of Okabe and Ito (2008), which colour-blind readers tell apart.

Public: one function per chart, each gives a `Figure`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sim.metrics.critical_path import Overlap
from sim.metrics.pictures import Pictures, Pipeline
from sim.metrics.result import MemoryResult, PowerLevel, StepResult
from sim.report import human
from sim.report.page.frame import Figure
from sim.report.text import LABELS

BLUE, ORANGE, GREEN, RED, PURPLE, YELLOW, SKY, GREY = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#f0e442",
    "#56b4e9",
    "#8a8f98",
)
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY)
PART_COLOURS = {
    "compute": BLUE,
    "tensor_comm": ORANGE,
    "context_comm": YELLOW,
    "expert_comm": PURPLE,
    "pipeline_comm": RED,
    "data_comm": GREEN,
    "host_comm": YELLOW,
    "bubble": GREY,
    "optimizer": SKY,
    "input_stall": PURPLE,
    "other": "#5b6470",
}
ACTIVITY_COLOURS = {"idle": "theme:soft", "forward": SKY, "backward": BLUE, "send": RED, "optimizer": GREEN}
GIB = 2.0**30
DAY = 86400.0
DECADES = {"dtick": 1, "exponentformat": "none", "minor": {"dtick": "D1", "ticks": "outside"}}  # ticks of a log axis


def breakdown_chart(step: StepResult) -> Figure:
    """Exposed time by part as one bar."""
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": LABELS.get(part, part),
            "y": [""],
            "x": [seconds],
            "marker": {"color": PART_COLOURS.get(part, GREY)},
            "text": f"{human.step_time(seconds)}, {human.percent(seconds / step.time_s)}",
            "hovertemplate": f"{LABELS.get(part, part)}<br>%{{text}}<extra></extra>",
            "textposition": "none",
        }
        for part, seconds in step.breakdown_s.items()
        if seconds > 0
    ]
    layout = {"barmode": "stack", "xaxis": {"title": {"text": "seconds of one step"}}, "margin": {"l": 20}}
    text = f"Exposed time on the critical rank; together {human.step_time(step.time_s)}."
    return Figure("breakdown", text, data, layout, 210)


def pipeline_chart(pipeline: Pipeline) -> Figure:
    """Stages over time."""
    n = len(pipeline.kinds)
    colours = [
        ACTIVITY_COLOURS.get(kind, PALETTE[(number + 4) % len(PALETTE)]) for number, kind in enumerate(pipeline.kinds)
    ]
    width = pipeline.step / len(pipeline.activity[0])
    text = [
        [
            pipeline.kinds[kind] + (f", microbatch {index}" if index >= 0 else "")
            for kind, index in zip(kinds, indices, strict=True)
        ]
        for kinds, indices in zip(pipeline.activity, pipeline.index, strict=True)
    ]
    data: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "z": [list(row) for row in pipeline.activity],
            "x0": width / 2,
            "dx": width,
            **({"y": list(pipeline.rows)} if pipeline.rows else {}),
            "text": text,
            "zmin": -0.5,
            "zmax": n - 0.5,
            "showscale": False,
            "ygap": 2,
            "colorscale": [[edge / n, colours[i]] for i in range(n) for edge in (i, i + 1)],
            "hovertemplate": "stage %{y}, %{x:.4g} s<br>%{text}<extra></extra>",
        }
    ]
    data += [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [None],
            "y": [None],
            "name": kind,
            "marker": {"color": colour, "symbol": "square"},
        }
        for kind, colour in zip(pipeline.kinds, colours, strict=True)
    ]
    stages = len(pipeline.activity)
    layout = {
        "xaxis": {"title": {"text": "seconds"}, "range": [0, pipeline.step]},
        "yaxis": {"title": {"text": "stage"}, "autorange": "reversed", "dtick": max(1, stages // 16)},
    }
    text_ = "One rank of each pipeline stage; each column shows what lasts longest in it."
    if pipeline.rows:
        layout["yaxis"] = {"autorange": "reversed"}
        text_ = "Devices of the busiest rank, replayed and recorded; each column shows what lasts longest in it."
    return Figure("pipeline", text_, data, layout, min(640, 140 + 24 * stages))


def memory_chart(memory: MemoryResult) -> Figure:
    """Memory by part and stage against the capacity."""
    stages = memory.by_stage or (memory.parts,)
    names = list(dict.fromkeys(part for parts in stages for part in parts))
    data: list[dict[str, Any]] = [
        {
            "type": "bar",
            "name": name,
            "x": list(range(len(stages))),
            "y": [parts.get(name, 0.0) / GIB for parts in stages],
            "marker": {"color": PALETTE[number % len(PALETTE)]},
            "hovertemplate": f"stage %{{x}}<br>{name} %{{y:.2f}} GiB<extra></extra>",
        }
        for number, name in enumerate(names)
    ]
    capacity = memory.capacity_bytes / GIB
    layout = {
        "barmode": "stack",
        "xaxis": {"title": {"text": "pipeline stage"}, "dtick": max(1, len(stages) // 16)},
        "yaxis": {"title": {"text": "GiB"}},
        "shapes": [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": capacity,
                "y1": capacity,
                "line": {"color": "theme:ink", "dash": "dash", "width": 1.5},
            }
        ],
        "annotations": [
            {
                "xref": "paper",
                "x": 1,
                "y": capacity,
                "text": f"capacity {capacity:.4g} GiB",
                "showarrow": False,
                "yanchor": "bottom",
                "xanchor": "right",
            }
        ],
    }
    return Figure("memory", "Memory of one accelerator of each stage at its fullest.", data, layout)


def communication_chart(overlaps: Sequence[Overlap]) -> Figure:
    """Exposed and hidden time of each kind of communication."""
    names = [LABELS.get(each.category, each.category) for each in overlaps]
    exposed, hidden = [each.exposed for each in overlaps], [max(0.0, each.total - each.exposed) for each in overlaps]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "y": names,
            "x": values,
            "name": name,
            "marker": {"color": colour},
            "hovertemplate": f"%{{y}}<br>{name} %{{x:.4g}} s<extra></extra>",
        }
        for name, values, colour in (("exposed", exposed, RED), ("hidden", hidden, GREEN))
    ]
    layout = {"barmode": "stack", "xaxis": {"title": {"text": "seconds in flight in a step"}}, "margin": {"l": 120}}
    text = "Collectives and sends of the critical rank: what the step waits for, and what happens beside other work."
    return Figure("communication", text, data, layout, 130 + 40 * len(names))


def roofline_chart(drawn: Pictures) -> Figure:
    """Operations by arithmetic intensity and rate; the area is their share of the step."""
    work = [each for each in drawn.work if each.flops > 0 and each.bytes > 0 and each.seconds > 0]
    total = sum(each.seconds * each.times for each in drawn.work) or 1.0
    data: list[dict[str, Any]] = []
    for number, kind in enumerate(dict.fromkeys(each.kind for each in work)):
        mine = [each for each in work if each.kind == kind]
        shares = [each.seconds * each.times / total for each in mine]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": kind,
                "x": [each.flops / each.bytes for each in mine],
                "y": [each.flops / each.seconds / 1e12 for each in mine],
                "marker": {
                    "size": [6 + 60 * share**0.5 for share in shares],
                    "color": PALETTE[number],
                    "opacity": 0.75,
                },
                "text": [
                    f"{each.name}<br>{human.step_time(each.seconds)} x {each.times:,}<br>{share:.1%} of the computation"
                    for each, share in zip(mine, shares, strict=True)
                ],
                "hovertemplate": "%{text}<br>%{x:.4g} FLOP/B, %{y:.4g} TFLOP/s<extra></extra>",
            }
        )
    knee = drawn.matrix_rate / drawn.memory_rate
    low = min([each.flops / each.bytes for each in work] + [knee]) / 3
    high = max([each.flops / each.bytes for each in work] + [knee]) * 3
    roof = [low * drawn.memory_rate / 1e12, drawn.matrix_rate / 1e12, drawn.matrix_rate / 1e12]
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "roof",
            "x": [low, knee, high],
            "y": roof,
            "line": {"color": "theme:ink", "width": 1.5},
            "hoverinfo": "skip",
        }
    )
    layout = {
        "xaxis": {"type": "log", **DECADES, "title": {"text": "FLOP per byte of memory traffic"}},
        "yaxis": {"type": "log", **DECADES, "title": {"text": "TFLOP/s"}},
    }
    text = "Operations of the critical rank under the roof of its accelerator; large circles take more of the step."
    return Figure("roofline", text, data, layout, 420)


def power_chart(levels: Mapping[str, PowerLevel]) -> Figure:
    """Power over one step, each level relative to its own mean."""
    data = [
        _power(name, level, 1.0, PALETTE[number % len(PALETTE)]) for number, (name, level) in enumerate(levels.items())
    ]
    layout = {
        "xaxis": {"title": {"text": "seconds of one step"}},
        "yaxis": {"title": {"text": "power / mean"}, "rangemode": "tozero"},
    }
    return Figure("power", "Power over one step, each level relative to its mean.", data, layout)


def run_power_chart(level: PowerLevel) -> Figure:
    """Power of the site over the whole run."""
    layout = {
        "xaxis": {"title": {"text": "days"}},
        "yaxis": {"title": {"text": "power / mean"}, "rangemode": "tozero"},
        "showlegend": False,
    }
    text = f"Power of the site over the run, mean {human.power(level.mean_w)}."
    return Figure("run-power", text, [_power("site", level, DAY, BLUE)], layout, 260)


def _power(name: str, level: PowerLevel, unit: float, colour: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"{name}, mean {human.power(level.mean_w)}",
        "x": [sample * level.sample_s / unit for sample in range(len(level.samples_w))],
        "y": [watts / level.mean_w if level.mean_w else 0.0 for watts in level.samples_w],
        "text": [human.power(watts) for watts in level.samples_w],
        "line": {"color": colour, "shape": "hv"},
        "hovertemplate": f"{name}: %{{text}} at %{{x:.4g}}<extra></extra>",
    }


def share_chart(name: str, text: str, parts: Mapping[str, float], say: Callable[[float], str]) -> Figure:
    """Parts of a whole as bars, largest on top; `say` tells an amount with its unit."""
    shown = sorted(((value, part.replace("_", " ")) for part, value in parts.items() if value > 0))
    total = sum(value for value, _ in shown) or 1.0
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "x": [value / total for value, _ in shown],
            "y": [part for _, part in shown],
            "customdata": [value for value, _ in shown],
            "text": [say(value) for value, _ in shown],
            "textposition": "none",
            "marker": {"color": BLUE},
            "hovertemplate": "%{y}<br>%{text}, %{x:.2%}<extra></extra>",
        }
    ]
    layout = {
        "xaxis": {"tickformat": ".0%", "title": {"text": f"share of {say(total)}"}},
        "margin": {"l": 140},
    }
    return Figure(name, f"{text}.", data, layout, 110 + 26 * len(shown))
