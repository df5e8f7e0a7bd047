"""What saving and restoring the state of a training costs.

Public: `CheckpointCosts`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckpointCosts:
    """One save and one restore of the whole state; times in seconds."""

    bytes: float  # stored by one save, compressed, all shards, without replicas that storage adds
    blocking_s: float  # training stands still: the whole save, or the copy into host memory
    drain_s: float  # from the end of blocking until the save is durable; 0 when synchronous
    drain_slowdown: float  # step time while draining over step time without
    restore_s: float  # all ranks read at once, from the start to the last byte in device memory
    peer_blocking_s: float  # training stands still for one copy into a peer's memory; 0 unless in_memory
    peer_restore_s: float  # replaced ranks fetch their state from peers; 0 unless in_memory
