"""What storage costs a job, as the result reports it: plain values, apart from the simulation that finds them.

Public: `Feeding`, `CheckpointCosts`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Feeding:
    """How training data arrives, in steady state."""

    stall_s: float  # mean wait of a step
    supplied_samples_per_s: float | None  # what the slowest stage lets through; None: no stage takes time
    wanted_samples_per_s: float  # if data were always there
    accelerator_utilization: float  # step time without the wait, over step time
    limit: str  # what takes longest: storage, decompression or preprocessing; none if training hardly waits
    fill_s: float  # before the first step, for the shuffle buffer
    slowed_s: float = 0.0  # of a step: its own traffic is slower while batches are read over the same links


@dataclass(frozen=True)
class CheckpointCosts:
    """One save and one restore of the whole state; times in seconds."""

    bytes: float  # stored by one save, compressed, all shards, without the copies that storage makes
    blocking_s: float  # training stands still: the whole save, or the copy into host memory
    drain_s: float  # from the end of blocking until the save is durable; 0 when synchronous
    drain_slowdown: float  # step time while draining over step time without
    restore_s: float  # all ranks read at once, from the start to the last byte in device memory
    peer_blocking_s: float  # what training loses for one copy into a peer's memory; 0 unless in_memory
    peer_restore_s: float  # replaced ranks fetch their state from peers; 0 unless in_memory
