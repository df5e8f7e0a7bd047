"""Timelines as JSON that viewers read: Chrome/Perfetto, and the PyTorch profiler's flavour of it.

Both follow the Trace Event Format (Google, "Trace Event Format", 2016): times in microseconds,
complete events `X` that nest on a track, counters `C`, flow arrows `s` and `f`, metadata `M`.

Public: `chrome_events`, `profiler_trace`, `write_events`, `check_size`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from sim.engine.category import COMMUNICATION, Category
from sim.errors import ConfigError, Problem
from sim.metrics.timeline import Timeline, TimelineSpan
from sim.report.files import replacing

Event = dict[str, Any]
RECORDED = 500_000_000  # process number of rank 0 as it was recorded, above every rank
NETWORK = 1_000_000_000  # process number of the counters, above all ranks
KERNELS = {"compute": "matmul and elementwise kernels", "optimizer": "optimizer kernels"}  # parts that run kernels
NOT_ON_DEVICE = ("other",)  # the device waits for its host
FIRST_COMM_STREAM = 20
COMPUTE_STREAM = 7
SMALLER = "show fewer ranks (--ranks 0,8), a shorter window (--from, --to), or allow more (--max-size)"
EDGE = 1e-3  # length of the marks at both ends of the step [us]


# --- Chrome and Perfetto --------------------------------------------------------------------


def chrome_events(timeline: Timeline) -> Iterator[Event]:
    """One process per rank, one thread per stream; link loads as counters; arrows from send to use."""
    beside = [replace(span, rank=RECORDED + span.rank) for span in timeline.recorded]
    tracks = _track_numbers([*timeline.spans, *beside])
    yield from _names(timeline, beside, tracks)
    spans = sorted([*timeline.spans, *beside], key=lambda span: (span.rank, span.track, span.start, -span.end))
    for (_, track), mine in groupby(spans, key=lambda span: (span.rank, span.track)):
        yield from _nested(list(mine), tracks[track])
    for number, arrow in enumerate(timeline.arrows):
        common = {"cat": "message", "name": "message", "id": number}
        yield common | {"ph": "s", "pid": arrow.sender, "tid": tracks[arrow.track], "ts": _us(arrow.sent)}
        yield common | {
            "ph": "f", "bp": "e", "pid": arrow.receiver, "tid": tracks["compute"], "ts": _us(arrow.used),
        }  # fmt: skip
    for load in timeline.loads:
        name = f"{load.link} (one of {load.count})" if load.count > 1 else load.link
        for time, share in zip(load.time.tolist(), load.share.tolist(), strict=True):
            yield {"ph": "C", "pid": NETWORK, "name": name, "ts": _us(time), "args": {"load": round(100 * share, 4)}}


def _names(timeline: Timeline, beside: Sequence[TimelineSpan], tracks: dict[str, int]) -> Iterator[Event]:
    """Names of ranks and tracks; a rank as it was recorded follows the same rank in the replay."""
    told = {rank: f"rank {rank} on {place}" for rank, place in timeline.places.items()}
    told |= {rank: f"rank {rank - RECORDED} as recorded" for rank in dict.fromkeys(span.rank for span in beside)}
    for order, rank in enumerate(sorted(told, key=lambda rank: (rank % RECORDED, rank))):
        yield {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": told[rank]}}
        yield {"ph": "M", "name": "process_sort_index", "pid": rank, "args": {"sort_index": order}}
    for rank, track in dict.fromkeys((span.rank, span.track) for span in (*timeline.spans, *beside)):
        yield {"ph": "M", "name": "thread_name", "pid": rank, "tid": tracks[track], "args": {"name": track}}
        yield {
            "ph": "M", "name": "thread_sort_index", "pid": rank, "tid": tracks[track],
            "args": {"sort_index": tracks[track]},
        }  # fmt: skip
    if timeline.loads:
        yield {"ph": "M", "name": "process_name", "pid": NETWORK, "args": {"name": "links, % of capacity"}}


def _track_numbers(spans: Iterable[TimelineSpan]) -> dict[str, int]:
    return {track: number for number, track in enumerate(dict.fromkeys(["compute", *(span.track for span in spans)]))}


def _nested(spans: list[TimelineSpan], track: int) -> Iterator[Event]:
    """Spans of one track; pieces of one pass stand inside a span for the pass."""
    for (name, index), pieces in groupby(spans, key=lambda span: (span.name, span.index)):
        mine = list(pieces)
        if track == 0 and len(mine) > 1:
            whole = mine[0].start, mine[-1].end
            yield _complete(mine[0].rank, track, name, "pass", *whole, {"microbatch": index})
        for span in mine:
            args: dict[str, Any] = {"microbatch": span.index}
            if span.size:
                args["bytes"] = span.size
            if span.parts:
                args["parts_s"] = dict(span.parts)
            yield _complete(span.rank, track, name, span.category, span.start, span.end, args)


def _complete(rank: int, track: int, name: str, category: str, start: float, end: float, args: Event) -> Event:
    begin = _us(start)
    return {
        "ph": "X", "pid": rank, "tid": track, "name": name, "cat": category,
        "ts": begin, "dur": _us(end) - begin, "args": args,
    }  # fmt: skip


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 6)


# --- PyTorch profiler -------------------------------------------------------------------------


def profiler_trace(timeline: Timeline, rank: int, world: int, device: str) -> dict[str, Any]:
    """The trace of one rank as torch.profiler writes it, for readers such as HolisticTraceAnalysis.

    Computation and communication are kernels on streams of a device, each with the call that launched
    it. Marks at both ends let a reader see the whole step.
    """
    events: list[Event] = []
    streams: dict[str, int] = {}
    for span in (span for span in timeline.spans if span.rank == rank):
        stream = streams.setdefault(span.track, COMPUTE_STREAM if span.track == "compute" else _comm_stream(streams))
        events += _kernels(span, stream, len(events))
    step = _us(timeline.step)
    events += [_kernel("Memset (Device)", COMPUTE_STREAM, at, EDGE, "gpu_memset", 0) for at in (0.0, step - EDGE)]
    events.append(
        {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#0", "pid": 1, "tid": 1, "ts": 0.0, "dur": step}
    )
    return {
        "schemaVersion": 1,
        "deviceProperties": [{"id": 0, "name": device}],
        "distributedInfo": {"backend": "nccl", "rank": rank, "world_size": world},
        "traceEvents": events,
    }


def _comm_stream(streams: dict[str, int]) -> int:
    return FIRST_COMM_STREAM + len(streams)


def _kernels(span: TimelineSpan, stream: int, number: int) -> Iterator[Event]:
    """The kernels of a span, each after the host's call that launched it."""
    if span.category in COMMUNICATION:
        pieces = [(f"ncclDevKernel_{_collective(span)}", span.end - span.start)]
    else:
        total = sum(seconds for _, seconds in span.parts) or 1.0
        stretch = (span.end - span.start) / total
        pieces = [(part, seconds * stretch) for part, seconds in span.parts or (("compute", total),)]
    at = span.start
    for offset, (name, seconds) in enumerate(pieces):
        if seconds > 0 and name not in NOT_ON_DEVICE:
            link = 2 * number + offset + 1
            kernel = f"{span.name}: {KERNELS[name]}" if name in KERNELS else name
            yield _launch(at, link)
            yield _kernel(kernel, stream, _us(at), _us(seconds), "kernel", link)
        at += seconds


def _launch(at: float, link: int) -> Event:
    return {
        "ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 1, "tid": 1,
        "ts": _us(at), "dur": EDGE, "args": {"correlation": link},
    }  # fmt: skip


def _kernel(name: str, stream: int, at: float, length: float, category: str, link: int) -> Event:
    return {
        "ph": "X", "cat": category, "name": name, "pid": 0, "tid": stream, "ts": at, "dur": length,
        "args": {"device": 0, "stream": stream, "correlation": link},
    }  # fmt: skip


def _collective(span: TimelineSpan) -> str:
    sends = span.category == Category.PIPELINE_COMM
    return "SendRecv" if sends else span.name.title().replace(" ", "").replace("-", "")


# --- files -----------------------------------------------------------------------------------


def write_events(events: Iterable[Event], file: Path, limit: float) -> int:
    """Write a list of events, compressed if `file` ends in .gz; returns the bytes before compression.

    Raises ConfigError, and leaves no file, if there are more than `limit` bytes; OutputError if it cannot be written.
    """
    size = 0
    opener = gzip.open if file.suffix == ".gz" else open
    with replacing(file, "--output") as part, opener(part, "wt") as out:
        out.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        for number, event in enumerate(events):
            text = (",\n" if number else "") + json.dumps(event, separators=(",", ":"))
            size += len(text)
            check_size(size, file, limit)
            out.write(text)
        out.write("\n]}\n")
    return size


def check_size(size: float, file: Path, limit: float) -> None:
    """Raises ConfigError if a file would have more than `limit` bytes."""
    if size > limit:
        raise ConfigError(Problem(str(file), "", f"is larger than {limit / 1e6:,.0f} MB", SMALLER))
