"""One step of one rank, from what a profiler recorded to nodes, queues and edges (`inputs/recording.py`).

The host is a chain of stretches between calls that launch or await something. Calls of several threads are one chain,
each after the call that ended last before it: threads of training take turns (the backward pass has its own), and what
one waits for the other shows in that. A launch reaches the device a latency after its call begins, the usual one of the
trace, and a stretch ends when it does; so stretches are durations, and nothing is pinned to a point in time.

A kernel waits for its launch, for the one before it in its stream, and for events: as `cuda_sync` tells them, else as
order and times allow. An edge from what ends after the begin of what would wait for it is refused, and counted.

Public: `StepReader`, `StepCounts`, `StepWindow`, `choose_step`, `kind_of_kernel`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import pairwise
from math import inf
from typing import NamedTuple

import numpy as np

from sim.imports.kineto_file import COLLECTIVE, Call, DeviceActivity, KinetoFile, Wait
from sim.inputs.recording import ATTENTION, COPY, HOST, MEMORY, OTHER, PRODUCT, Queue, RecordedRank
from sim.inputs.recording import COLLECTIVE as COLLECTIVE_NODE

US = 1e-6
LATENCY_QUANTILE = 0.1  # of launches to streams at rest: what they take when nothing else holds them up
LATE = 100.0  # us after all that is known from which a begin has a reason that is not
NEXT = 20.0  # us within which what waits begins after the end of what it waits for
BACK = 5.0  # us within which a call that waited ends after what it waited for; time stamps of old files are whole us
AWAITS = re.compile(r"Synchronize")
COPIES = re.compile(r"Memcpy|Memset")
RECORDS, STREAM_WAITS = re.compile(r"EventRecord"), re.compile(r"StreamWaitEvent")
KERNELS = (  # the first that fits
    (ATTENTION, re.compile(r"flash|fmha|attention|attn|sdp", re.I)),
    (MEMORY, re.compile(r"im2col|col2im|splitkreduce|split_k_reduce|batch_?norm|bn_(fw|bw)|pooling", re.I)),
    (
        PRODUCT,
        re.compile(
            r"gemm|cutlass|wgrad|dgrad|fprop|convolve|implicit_con|winograd|xmma|cijk_|nvjet|matmul|conv2d|gemv|dot_kernel"
            r"|mfma|igemm|convolution|cudnn.*(conv|fft)|fft2d|MIOpenConv|miopenSp3|naive_conv",
            re.I,
        ),
    ),
    (
        MEMORY,
        re.compile(
            r"elementwise|reduc|norm|softmax|copy|cat|transpose|index|gather|scatter|embedding|dropout|fill|adam|sgd"
            r"|optimizer|multi_tensor|triton|loss|sort|scan|pool|permut|nchw|nhwc|unroll|relu|gelu|cast|cub::|thrust|tensor",
            re.I,
        ),
    ),
)


def kind_of_kernel(name: str, category: str) -> int:
    """Kind of node that ran on a device, by the name of its kernel or copy."""
    if category == "gpu_memset":
        return MEMORY
    if category == "gpu_memcpy":
        return MEMORY if "DtoD" in name else COPY
    if COLLECTIVE.search(name):
        return COLLECTIVE_NODE
    return next((kind for kind, pattern in KERNELS if pattern.search(name)), OTHER)


@dataclass
class StepCounts:
    """What was met in a step: for the report of an import."""

    kernels: int = 0
    copies: int = 0  # and memory that is set
    collectives: int = 0
    launches: int = 0
    synchronizations: int = 0
    threads: int = 0
    streams: int = 0
    waits_told: int = 0  # between streams, as the runtime tells them
    waits_inferred: int = 0  # from order and times
    waits_late: int = 0  # from times alone
    waits_unknown: int = 0  # for events of which nothing in the step shows what they are
    refused: int = 0  # edges that lead back in time
    without_launch: int = 0  # ran, but nothing in the file launched them
    still_running: int = 0  # launched before the step, ran on into it
    unknown_kernels: Counter[str] = field(default_factory=Counter)
    latency: float = 0.0  # of a launch [us]
    host_bound: float = 0.0  # share of kernels that waited for their launch alone


class StepWindow(NamedTuple):
    """The part of a file that is a step [us], and the thread that says when it ends; number -1: all there is."""

    start: float
    end: float
    number: int = -1
    thread: str = ""


def choose_step(file: KinetoFile, wanted: int | None = None) -> StepWindow | None:
    """The step that is wanted; else that in which most is launched, the last of equals; all if steps are not marked."""
    marks = file.steps if wanted is None else [mark for mark in file.steps if mark.number == wanted]
    if wanted is not None and not marks:
        return None
    if not marks:
        ends = max(each.end for each in file.activities), max((each.end for each in file.calls), default=0.0)
        begins = file.activities[0].start, file.calls[0].start if file.calls else inf
        return StepWindow(min(begins), max(ends))
    launched = {each.correlation for each in file.activities}
    times = [call.start for call in file.calls if call.correlation in launched]
    counted = [bisect_left(times, mark.end) - bisect_left(times, mark.start) for mark in marks]
    most = max(counted)
    best = max(place for place, count in enumerate(counted) if count >= 0.98 * most)
    mark = marks[best]
    return StepWindow(mark.start, mark.end, mark.number, mark.thread)


class Draft(NamedTuple):
    """A node before it has a number; times in us, as recorded."""

    at: float  # where it stands among others
    queue: int
    kind: int
    name: str
    seconds: float
    start: float

    @property
    def end(self) -> float:
        """When it ended."""
        return self.start + self.seconds


class Launch(NamedTuple):
    """When something was put into a stream [us], and the draft of it."""

    at: float
    draft: int


class Moment(NamedTuple):
    """The end of a stretch of the host: as it was recorded, when it counts in the replay [us], and its draft."""

    at: float
    reached: float
    draft: int


Stream = tuple[int, int]  # device, and number of the stream there


class StepReader:
    """Reads one step of a file. `rank` gives its nodes; what was met on the way stands in `counts`."""

    def __init__(self, file: KinetoFile, window: StepWindow) -> None:
        self.file, self.window, self.counts = file, window, StepCounts()
        self.drafts: list[Draft] = []
        self.edges: list[tuple[int, int]] = []
        self.queues: dict[Queue, int] = {}
        self.call_of = {call.correlation: call for call in file.calls if call.correlation >= 0}
        self.told: dict[int, list[Wait]] = defaultdict(list)
        for wait in file.waits:
            self.told[wait.correlation].append(wait)
        self.of_call: dict[int, list[int]] = defaultdict(list)  # drafts of what a call launched
        self.streams: dict[Stream, list[Launch]] = {}  # in the order of launches
        self.activity: dict[int, DeviceActivity] = {}  # of drafts
        self.moments: list[Moment] = []
        self.launched: dict[int, float] = {}  # draft -> when its launch reaches the device in the replay [us]
        chosen = self._chosen()
        self.latency = self.counts.latency = self._latency(chosen)
        self._read_device(chosen)
        self._read_host()
        for before, after in self._stream_waits():
            self._join(before, after)
        if not self.counts.waits_told:
            self._explain_late()

    # --- what ran on devices ------------------------------------------------------------------------

    def _chosen(self) -> list[DeviceActivity]:
        """What was launched in the step, and what ran in it though nothing launched it."""
        start, end, chosen = self.window.start, self.window.end, []
        for each in self.file.activities:
            call = self.call_of.get(each.correlation)
            if start <= (call.start if call else each.start) < end:
                chosen.append(each)
                self.counts.without_launch += call is None
            elif call is not None and call.start < start < each.end:
                self.counts.still_running += 1
        return chosen

    def _latency(self, chosen: list[DeviceActivity]) -> float:
        """From the begin of a call to that of its kernel, where the stream was at rest [us]."""
        last: dict[Stream, float] = {}
        taken = []
        for each in chosen:
            call, stream = self.call_of.get(each.correlation), (each.device, each.stream)
            if call is not None and last.get(stream, -inf) < call.start <= each.start:
                taken.append(each.start - call.start)
            last[stream] = max(last.get(stream, -inf), each.end)
        return float(np.quantile(taken, LATENCY_QUANTILE, method="lower")) if taken else 0.0

    def _read_device(self, chosen: list[DeviceActivity]) -> None:
        """Nodes by stream; what overlaps within one is cut, so that nothing adds up."""
        by_stream: dict[Stream, list[DeviceActivity]] = defaultdict(list)
        for each in chosen:
            by_stream[each.device, each.stream].append(each)
        one = len({device for device, _ in by_stream}) == 1
        for (device, stream), activities in by_stream.items():
            queue = self._queue(f"stream {stream}" if one else f"device {device} stream {stream}", "device")
            launches = []
            for each, after in zip(activities, [*activities[1:], None], strict=True):
                end = min(each.end, after.start) if after else each.end
                kind = kind_of_kernel(each.name, each.category)
                draft = self._draft(each.start, queue, kind, each.name[:200], each.start, end)
                self._count(each, kind)
                self.activity[draft] = each
                call = self.call_of.get(each.correlation)
                if call:
                    self.of_call[each.correlation].append(draft)
                launches.append(Launch(call.start if call else each.start, draft))
            self.streams[device, stream] = sorted(launches)
        self.counts.streams = len(by_stream)

    def _count(self, each: DeviceActivity, kind: int) -> None:
        self.counts.kernels += each.category == "kernel"
        self.counts.copies += each.category != "kernel"
        self.counts.collectives += kind == COLLECTIVE_NODE
        if kind == OTHER:
            self.counts.unknown_kernels[each.name[:80]] += 1

    # --- the host -----------------------------------------------------------------------------------

    def _read_host(self) -> None:
        """The chain of stretches between calls that launch or await something."""
        threads = set()
        for call in self.file.calls:
            if not self.window.start <= call.start < self.window.end:
                continue
            launched = self.of_call.get(call.correlation, [])
            if launched:
                self.counts.launches += 1
                draft = self._stretch(call.thread, call.start, call.start + self.latency)
                for each in launched:
                    self.launched[each] = self.moments[-1].reached
                    self._edge(draft, each)
            if self._awaits(call, launched):
                self.counts.synchronizations += 1
                if not launched:
                    self._stretch(call.thread, call.start, call.start)
                self._return(call, launched)
            threads.add(call.thread)
        if self.window.number >= 0:
            self._stretch(self.window.thread, self.window.end, self.window.end)
        self.counts.threads = len(threads)

    def _awaits(self, call: Call, launched: list[int]) -> bool:
        """Whether the host goes on after the device only: a synchronization, or a copy that had ended by then."""
        copied = bool(launched) and COPIES.search(call.name) is not None
        return bool(AWAITS.search(call.name)) or (copied and all(self.drafts[n].end <= call.end for n in launched))

    def _before(self, time: float) -> Moment:
        """The stretch of any thread that ended last by a time; the begin of the step where there is none."""
        place = bisect_right(self.moments, (time, inf)) - 1
        return self.moments[place] if place >= 0 else Moment(self.window.start, self.window.start, -1)

    def _stretch(self, thread: str, end: float, reaches: float) -> int:
        """Host work up to `end`, which counts until `reaches` in the replay [us]."""
        before = self._before(end)
        queue = self._queue(f"thread {thread}", "host")
        reached = max(reaches, before.reached)
        draft = self._draft(end, queue, HOST, "host", before.reached, reached)
        self._edge(before.draft, draft)
        insort(self.moments, Moment(end, reached, draft))
        return draft

    def _return(self, call: Call, launched: list[int]) -> None:
        """The host goes on when what it awaits has ended."""
        awaited, before = launched or self._awaited(call), self._before(call.start)
        since = max([call.start, before.reached, *(self.drafts[each].end for each in awaited)])
        draft = self._draft(call.end, self._queue(f"thread {call.thread}", "host"), HOST, call.name, since, call.end)
        for each in (before.draft, *awaited):
            self._edge(each, draft)
        insort(self.moments, Moment(call.end, max(call.end, since), draft))

    def _awaited(self, call: Call) -> list[int]:
        """Drafts of what a synchronization waits for: as told, else what ended last before it came back."""
        found: list[int] = []
        told = [wait for wait in self.told.get(call.correlation, ()) if wait.kind != "Stream Wait Event"]
        for wait in told:
            record = self.call_of.get(wait.record)
            if wait.kind == "Context Sync":
                found += self._last([*self.streams], call.start)
            elif wait.kind == "Stream Sync":
                found += self._last([key for key in self.streams if key[1] == wait.stream], call.start)
            elif record:
                found += self._last([key for key in self.streams if key[1] == wait.on_stream], record.start)
        if not told and "Device" in call.name:
            found = self._last([*self.streams], call.start)
        if not found and not told:
            ended = [each for key in self.streams for each in self._ended(key, call.start, call.end + BACK)]
            found = sorted(ended, key=lambda draft: self.drafts[draft].end)[-1:]
        late = [each for each in found if self.drafts[each].end > call.end + BACK]
        self.counts.refused += len(late)
        return [each for each in found if each not in late]

    # --- waits between streams ----------------------------------------------------------------------

    def _stream_waits(self) -> list[tuple[int, int]]:
        """Drafts that wait for an event of another stream, behind what they wait for."""
        window = self.window
        told = [wait for wait in self.file.waits if wait.kind == "Stream Wait Event"]
        if told:
            pairs = [self._told_wait(wait) for wait in told]
            inside = [pair for pair in pairs if pair is not None]
            self.counts.waits_told = sum(bool(pair) for pair in inside)
        else:
            calls = (call for call in self.file.calls if STREAM_WAITS.search(call.name))
            inside = [self._inferred_wait(call) for call in calls if window.start <= call.start < window.end]
            self.counts.waits_inferred = sum(bool(pair) for pair in inside)
        self.counts.waits_unknown = sum(not pair for pair in inside)
        return list(dict.fromkeys(pair for pair in inside if pair))

    def _told_wait(self, wait: Wait) -> tuple[int, int] | tuple[()] | None:
        """The pair that a wait joins; none if what waits is not in the step, () if it is not known for what."""
        call, record = self.call_of.get(wait.correlation), self.call_of.get(wait.record)
        if call is None or not self.window.start <= call.start < self.window.end:
            return None
        waits = [key for key in self.streams if key[1] == wait.stream]
        after = [each.draft for key in waits for each in self.streams[key] if each.at >= call.start][:1]
        before = self._last([key for key in self.streams if key[1] == wait.on_stream], record.start) if record else []
        if not after:
            return None
        return (before[0], after[0]) if before else ()

    def _inferred_wait(self, call: Call) -> tuple[int, int] | tuple[()]:
        """What the thread launches next waits for what ended last before it began, launched earlier elsewhere."""
        place = bisect_left(self._by_thread[call.thread], (call.start,))
        after = next((each.draft for each in self._by_thread[call.thread][place:][:1]), None)
        if after is None:
            return ()
        mine, start = self.drafts[after].queue, self.drafts[after].start
        others = [key for key in self.streams if self.drafts[self.streams[key][0].draft].queue != mine]
        ended = [each for key in others for each in self._ended(key, call.start, start)]
        last = max(ended, key=lambda draft: self.drafts[draft].end, default=None)
        return () if last is None else (last, after)

    @cached_property  # asked for each wait
    def _by_thread(self) -> dict[str, list[Launch]]:
        """What each thread launches, in order."""
        launches: dict[str, list[Launch]] = defaultdict(list)
        for correlation, drafts in self.of_call.items():
            call = self.call_of[correlation]
            launches[call.thread] += [Launch(call.start, draft) for draft in drafts]
        for each in launches.values():
            each.sort()
        return launches

    def _last(self, streams: list[Stream], time: float) -> list[int]:
        """Drafts of what was launched last on each of the streams before a time."""
        places = [(key, bisect_left(self.streams[key], (time,)) - 1) for key in streams]
        return [self.streams[key][place].draft for key, place in places if place >= 0]

    def _ended(self, stream: Stream, launched: float, ended: float) -> list[int]:
        """Draft of what was launched on a stream before a time and, of that, ended last by another; none or one."""
        launches = self.streams[stream]
        place = bisect_left(launches, (launched,)) - 1
        while place >= 0 and self.drafts[launches[place].draft].end > ended:
            place -= 1
        return [launches[place].draft] if place >= 0 else []

    def _explain_late(self) -> None:
        """What began late right after an end in another stream waited for that."""
        lags = self._lags()
        ends = sorted((self.drafts[draft].end, draft) for draft in self.activity)
        for draft, lag in lags.items():
            mine = self.drafts[draft]
            if lag <= LATE:
                continue
            place = bisect_right(ends, (mine.start, len(self.drafts))) - 1
            while (
                place >= 0 and ends[place][0] >= mine.start - NEXT and self.drafts[ends[place][1]].queue == mine.queue
            ):
                place -= 1
            if place >= 0 and ends[place][0] >= mine.start - NEXT:
                self.counts.waits_late += 1
                self._join(ends[place][1], draft)

    def _join(self, before: int, after: int) -> None:
        """An edge between streams, unless it leads back in time."""
        if self.drafts[before].end <= self.drafts[after].start + BACK:
            self._edge(before, after)
        else:
            self.counts.refused += 1

    def let_go(self) -> None:
        """Of all but the counts: files of many ranks are not held at once."""
        self.file = KinetoFile(self.file.path)
        for held in (self.drafts, self.edges, self.activity, self.streams, self.moments, self.call_of, self.told):
            held.clear()
        vars(self).pop("order_of_nodes", None)
        vars(self).pop("_by_thread", None)

    # --- nodes with numbers -------------------------------------------------------------------------

    def _queue(self, name: str, kind: str) -> int:
        return self.queues.setdefault(Queue(name, kind), len(self.queues))

    def _draft(self, at: float, queue: int, kind: int, name: str, start: float, end: float) -> int:
        self.drafts.append(Draft(at, queue, kind, name, max(0.0, end - start), start))
        return len(self.drafts) - 1

    def _edge(self, before: int, after: int) -> None:
        if before >= 0 and before != after:
            self.edges.append((before, after))

    @cached_property  # a walk over all nodes, for them and for what their collectives are
    def order_of_nodes(self) -> tuple[list[int], list[tuple[int, int]]]:
        """Drafts in an order that edges and queues allow, by time where they do; edges that close a circle go."""
        drafts, after, left = self.drafts, defaultdict(list), [0] * len(self.drafts)
        in_queue: dict[int, list[int]] = defaultdict(list)
        for number in sorted(range(len(drafts)), key=lambda n: (drafts[n].at, n)):
            in_queue[drafts[number].queue].append(number)
        following = [pair for queue in in_queue.values() for pair in pairwise(queue)]
        kept = [pair for pair in dict.fromkeys(self.edges) if self._forward(pair)]
        for before, number in (*following, *kept):
            after[before].append(number)
            left[number] += 1
        ready = [(draft.at, number) for number, draft in enumerate(drafts) if not left[number]]
        heapify(ready)
        order: list[int] = []
        while ready:
            _, number = heappop(ready)
            order.append(number)
            for each in after[number]:
                left[each] -= 1
                if not left[each]:
                    heappush(ready, (drafts[each].at, each))
        rest = sorted(set(range(len(drafts))) - set(order), key=lambda number: (drafts[number].at, number))
        place = {number: position for position, number in enumerate([*order, *rest])}
        closed = {pair for pair in kept if place[pair[0]] > place[pair[1]]} if rest else set()
        self.counts.refused += len(closed)
        return [*order, *rest], [pair for pair in kept if pair not in closed]

    def _forward(self, pair: tuple[int, int]) -> bool:
        """Whether an edge leads on in time; refused and counted if not."""
        forward = self.drafts[pair[0]].at <= self.drafts[pair[1]].at
        self.counts.refused += not forward
        return forward

    def rank(self, number: int) -> RecordedRank:
        """The nodes of the step."""
        order, edges = self.order_of_nodes
        place = {draft: position for position, draft in enumerate(order)}
        drafts = [self.drafts[draft] for draft in order]
        names = {name: number for number, name in enumerate(dict.fromkeys(draft.name for draft in drafts))}
        edges = sorted((place[before], place[after]) for before, after in edges)
        ends = [max(draft.end, draft.start) for draft in drafts]
        last = max([*ends, self.window.end if self.window.number >= 0 else 0.0])
        lags = self._lags()
        return RecordedRank(
            rank=number,
            step=(last - self.window.start) * US,
            queues=tuple(self.queues),
            names=tuple(names),
            queue=np.array([draft.queue for draft in drafts], np.int64),
            kind=np.array([draft.kind for draft in drafts], np.int64),
            name=np.array([names[draft.name] for draft in drafts], np.int64),
            seconds=np.array([draft.seconds for draft in drafts]) * US,
            lag=np.array([lags.get(draft, 0.0) for draft in order]) * US,
            start=np.array([draft.start - self.window.start for draft in drafts]) * US,
            before=np.array([before for before, _ in edges], np.int64),
            after=np.array([after for _, after in edges], np.int64),
        )

    def _lags(self) -> dict[int, float]:
        """From the last end of all that a kernel waits for to its own begin [us]; the host is never late."""
        ready: dict[int, float] = defaultdict(lambda: self.window.start)
        for before, after in self.edges:
            if self.drafts[after].kind != HOST and self.drafts[before].kind != HOST:
                ready[after] = max(ready[after], self.drafts[before].end)
        last: dict[int, float] = {}
        bound = 0
        for draft in sorted(self.activity, key=lambda each: self.drafts[each].start):
            mine = self.drafts[draft]
            waits = max(ready[draft], last.get(mine.queue, self.window.start))
            bound += self.launched.get(draft, -inf) >= waits
            ready[draft] = max(waits, self.launched.get(draft, -inf))
            last[mine.queue] = mine.end
        self.counts.host_bound = bound / max(1, len(self.activity))
        return {draft: max(0.0, self.drafts[draft].start - ready[draft]) for draft in self.activity}
