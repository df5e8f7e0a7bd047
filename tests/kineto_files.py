"""Files as the PyTorch profiler writes them, made up: a host that launches, streams that run, and what they say."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.inputs.recording import RecordedRank

LAUNCH, OVERHEAD = 6.0, 10.0  # us that a call takes, and from its begin to that of its kernel on a stream at rest


@dataclass
class Profiled:
    """A profile under way; times in us. `now` is that of the host."""

    rank: int = 0
    world: int = 1
    began: float = 1.7e12  # of the step, as clocks of hosts stand
    now: float = 0.0
    events: list[dict[str, Any]] = field(default_factory=list)
    free: dict[int, float] = field(default_factory=dict)  # when each stream is done
    correlation: int = 100

    def event(self, category: str, name: str, start: float, lasts: float, track: tuple[int, int], **args: Any) -> None:
        """Write an event down."""
        place = {"ph": "X", "cat": category, "name": name, "pid": track[0], "tid": track[1]}
        self.events.append(place | {"ts": self.began + start, "dur": lasts, "args": args})

    def call(self, name: str, lasts: float = LAUNCH, thread: int = 1) -> int:
        """A call of the runtime; its correlation."""
        self.correlation += 1
        self.event("cuda_runtime", name, self.now, lasts, (1, thread), correlation=self.correlation)
        return self.correlation

    def kernel(
        self,
        name: str,
        lasts: float,
        stream: int = 7,
        after: float = 0.0,
        gap: float = 2.0,
        thread: int = 1,
        **args: Any,
    ) -> float:
        """Launch a kernel, which begins when its stream is free, and not before `after`; when it ends."""
        number = self.call("cudaLaunchKernel", thread=thread)
        start = max(self.now + OVERHEAD, self.free.get(stream, -gap) + gap, after)
        where = {"device": 0, "stream": stream, "correlation": number}
        self.event("kernel", name, start, lasts, (0, stream), **where, **args)
        self.free[stream] = start + lasts
        self.now += LAUNCH
        return self.free[stream]

    def synchronize(self, stream: int, told: bool = True) -> None:
        """Wait for a stream."""
        number = self.correlation + 1
        until = max(self.now, self.free.get(stream, 0.0)) + 3.0
        self.call("cudaStreamSynchronize", until - self.now)
        if told:
            kind = {"cuda_sync_kind": "Stream Sync", "stream": stream, "correlation": number}
            self.event("cuda_sync", "Stream Sync", self.now, until - self.now, (0, stream), **kind)
        self.now = until

    def wait(self, stream: int, on: int, told: bool = True) -> None:
        """Let a stream wait for what was launched to another so far."""
        recorded = self.call("cudaEventRecord", 1.0)
        self.now += 1.0
        waiting = self.call("cudaStreamWaitEvent", 1.0)
        self.now += 1.0
        if told:
            says = {"cuda_sync_kind": "Stream Wait Event", "stream": stream, "wait_on_stream": on}
            says |= {"correlation": waiting, "wait_on_cuda_event_record_corr_id": recorded}
            self.event("cuda_sync", "Stream Wait Event", self.now, 0.0, (0, stream), **says)

    def all_reduce(
        self, elements: int, lasts: float, after: float = 0.0, group: tuple[int, ...] | None = None
    ) -> float:
        """Sum a tensor over ranks on the stream of communication."""
        ranks = tuple(range(self.world)) if group is None else group
        says: dict[str, Any] = {
            "Collective name": "allreduce", "In msg nelems": elements, "Out msg nelems": elements, "dtype": "BFloat16",
            "Group size": len(ranks), "Process Group Name": str(min(ranks)), "Process Group Ranks": str(list(ranks)),
            "Process Group Description": "default_pg",
        }  # fmt: skip
        return self.kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(...)", lasts, 20, after, **says)

    def content(self, step: int | None = 3) -> dict[str, Any]:
        """The whole file."""
        marks = []
        if step is not None:
            where = {"ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{step}", "pid": 1, "tid": 1}
            marks = [where | {"ts": self.began, "dur": max(self.now, *self.free.values()), "args": {}}]
        return {
            "schemaVersion": 1,
            "distributedInfo": {"backend": "nccl", "rank": self.rank, "world_size": self.world},
            "deviceProperties": [{"id": 0, "name": "NVIDIA H100 80GB HBM3"}],
            "traceEvents": marks + self.events,
        }

    def write(self, file: Path, step: int | None = 3) -> Path:
        """Write the file."""
        file.write_text(json.dumps(self.content(step)), encoding="utf-8")
        return file


def training_step(rank: int = 0, world: int = 1, layers: int = 3, slow: float = 1.0, told: bool = True) -> Profiled:
    """Forward, backward with a sum of gradients beside it, a wait for the sums, an update, and a look at the loss."""
    step = Profiled(rank, world, began=1.7e12 + 1e6 * rank)
    step.now = 30.0
    for layer in range(layers):
        step.kernel("ampere_bf16_s16816gemm_bf16_128x128", slow * (200.0 + layer))
        step.kernel("vectorized_elementwise_kernel<4, Gelu>", slow * 40.0)
    for _ in range(layers):
        made = step.kernel("sm90_xmma_gemm_bf16_wgrad", slow * 400.0)
        if world > 1:
            step.wait(20, 7, told)
            step.all_reduce(4_000_000, 300.0, made + 3.0)
    if world > 1:
        step.wait(7, 20, told)
    step.kernel("multi_tensor_apply_kernel<adam>", 100.0, after=step.free.get(20, 0.0) + 3.0)
    step.synchronize(7, told)
    step.now += 15.0
    return step


def starts_by_hand(rank: RecordedRank) -> NDArray[np.float64]:
    """When each node begins [s], node by node: what the engine has to say of a rank alone."""
    end, start, last = np.zeros(rank.nodes), np.zeros(rank.nodes), dict[int, float]()
    waits: dict[int, list[int]] = {}
    for before, after in zip(rank.before.tolist(), rank.after.tolist(), strict=True):
        waits.setdefault(after, []).append(before)
    for node, queue in enumerate(rank.queue.tolist()):
        ready = max([0.0, last.get(queue, 0.0) if queue >= 0 else 0.0, *(end[each] for each in waits.get(node, ()))])
        start[node] = ready + rank.lag[node]
        end[node] = start[node] + rank.seconds[node]
        last[queue] = end[node]
    return start
