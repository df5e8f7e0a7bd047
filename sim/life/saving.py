"""What saving and restoring the state of a training costs.

A synchronous save streams from device memory through serialisation and compression to storage: its slowest
part sets the pace, and training waits. An asynchronous one blocks for the copy into host memory; the rest drains
beside training. Before the bytes of a file move it has to be opened: all files of a save at once, at the
rate that the metadata service stands.

Public: `checkpoint_costs`, `check_checkpoint`; `CheckpointCosts` in `storage_costs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from sim.cluster.storage import StorageSystem
from sim.errors import PlanError, Problem
from sim.inputs.storage import SERIALIZATION_BANDWIDTH, Checkpointing
from sim.layout.plan import Plan
from sim.layout.state import needed_bytes, saved_bytes, shared_bytes
from sim.layout.transfers import Transfers, check_stripes, file_transfers, peer_transfers, replica_transfers
from sim.life.storage_costs import CheckpointCosts
from sim.programs.drains import Drain, drain_beside, transfer_seconds
from sim.units import DATA, format_quantity

Floats = NDArray[np.float64]


def check_checkpoint(plan: Plan) -> None:
    """Raise PlanError if what the plan's experiment saves has no room in storage or host memory."""
    _saver(plan, 0.0).check()


def checkpoint_costs(plan: Plan, step_s: float) -> CheckpointCosts:
    """Costs of the checkpoints that the plan's experiment asks for; `step_s`: a step without them.

    Raises PlanError if there is nothing to ask for, or if storage is too small; Deadlock.
    """
    return _saver(plan, step_s).costs()


def _saver(plan: Plan, step_s: float) -> _Saver:
    save, storage = plan.experiment.checkpoint, plan.cluster.storage
    if save is None or storage is None:
        raise PlanError(Problem("", "checkpoint", "checkpoints need `checkpoint` and `cluster.storage`"))
    return _Saver(plan, save, storage, step_s)


@dataclass(frozen=True)
class _Saver:
    """One way of saving, on one cluster."""

    plan: Plan
    save: Checkpointing
    storage: StorageSystem
    step_s: float

    def check(self) -> None:
        """Raise PlanError where the state does not fit."""
        state = saved_bytes(self.plan, self.save)
        stored = state / self.save.compression_ratio
        self._check_capacity(float(stored.sum()))
        self._check_host_memory(state)
        check_stripes(int(np.count_nonzero(state)), self.storage)
        check_stripes(int(np.count_nonzero(self._read)), self.storage)

    def costs(self) -> CheckpointCosts:
        """All of them."""
        self.check()
        state = saved_bytes(self.plan, self.save)
        stored = state / self.save.compression_ratio
        if self.save.mode == "synchronous":
            blocking, drain = self._write(stored, copying=True), Drain(0.0, 0.0)
        else:
            blocking, drain = self._copy_s(state), self._drain(stored)
        in_memory = self.save.mode == "in_memory"
        return CheckpointCosts(
            bytes=float(stored.sum()),
            blocking_s=blocking,
            drain_s=drain.seconds,
            drain_slowdown=drain.slowdown,
            restore_s=self._restore(),
            peer_blocking_s=self._peer_copy(state) if in_memory else 0.0,
            peer_restore_s=self._peer_restore() if in_memory else 0.0,
        )

    @property
    def _copy_rate(self) -> float:
        """Accelerator to host and back, B/s per rank."""
        rates = [kind.node.host.pcie_bandwidth for kind in self.plan.cluster.kinds]
        return self.save.host_copy_bandwidth or min(rates) or inf  # all wait for the slowest

    def _copy_s(self, state: Floats) -> float:
        return float(state.max()) / self._copy_rate

    def _opening_s(self, files: int) -> float:
        rate = self.storage.spec.requests.metadata_rate
        return files / rate if rate else 0.0

    def _pace(self, *work: float | None, copying: bool) -> float:
        """Stored bytes per second that work on the state and copying it let through, per rank."""
        rates = [rate for rate in work if rate is not None]
        return min(*rates, inf, self._copy_rate if copying else inf) / self.save.compression_ratio

    def _files(self, stored: Floats, *, copying: bool) -> Transfers:
        serialized = self.save.serialization_bandwidth or SERIALIZATION_BANDWIDTH
        pace = self._pace(serialized, self.save.compression_bandwidth, copying=copying)
        return file_transfers(self.plan, self.storage, stored, pace, write=True)

    def _write(self, stored: Floats, *, copying: bool) -> float:
        opening = self._opening_s(int(np.count_nonzero(stored)))
        return opening + transfer_seconds(self.plan, self._files(stored, copying=copying))

    def _drain(self, stored: Floats) -> Drain:
        if self.storage.is_local or self.storage.has_own_network:  # shares no link with training
            return Drain(self._write(stored, copying=False), 0.0)
        drain = drain_beside(self.plan, self._files(stored, copying=False), self.step_s)
        opening = self._opening_s(int(np.count_nonzero(stored)))
        return Drain(opening + drain.seconds, drain.lost)

    @property
    def _read(self) -> Floats:
        """Bytes that each rank reads from storage to go on, (n_ranks,)."""
        return (needed_bytes if self.save.restore == "each" else shared_bytes)(self.plan, self.save)

    def _restore(self) -> float:
        """Every rank reads what it needs; or each byte is read once, and replicas pass it on."""
        needed, read = needed_bytes(self.plan, self.save), self._read
        stored = read / self.save.compression_ratio
        pace = self._pace(self.save.decompression_bandwidth, copying=True)
        files = file_transfers(self.plan, self.storage, stored, pace, write=False)
        passed_on = replica_transfers(self.plan, needed - read)
        reading = self._opening_s(int(np.count_nonzero(stored))) + transfer_seconds(self.plan, files)
        return reading + transfer_seconds(self.plan, passed_on)

    def _peer_copy(self, state: Floats) -> float:
        """The copy into host memory, what its way to the peer costs the next steps, and what does not fit into them."""
        drain = drain_beside(self.plan, peer_transfers(self.plan, state), self.step_s)
        room = self.save.peer_interval_steps * self.step_s + drain.lost
        return self._copy_s(state) + drain.lost + max(0.0, drain.seconds - room)

    def _peer_restore(self) -> float:
        """All ranks at once: the worst case, and no slower than one where the network is not oversubscribed."""
        needed = needed_bytes(self.plan, self.save)
        moved = transfer_seconds(self.plan, peer_transfers(self.plan, needed, back=True))
        return moved + self._copy_s(needed)

    def _check_host_memory(self, state: Floats) -> None:
        """Raise PlanError if the copies a node holds, for itself and its peer, do not fit into its memory."""
        memory = min(kind.node.host.memory for kind in self.plan.cluster.kinds)
        copies = {"synchronous": 0, "asynchronous": 1, "in_memory": 2}[self.save.mode]
        node = self.plan.cluster.node_of(self.plan.grid.accelerator)
        wanted = copies * float(np.bincount(node, state).max())
        if memory and wanted > memory:
            size, room = format_quantity(wanted, DATA), format_quantity(memory, DATA)
            message = f"copies of the state take {size} of host memory, a node has {room}"
            raise PlanError(Problem("", "checkpoint.mode", message, "use synchronous, or writers: all"))

    def _check_capacity(self, stored: float) -> None:
        """Raise PlanError if the checkpoints that are kept do not fit."""
        capacity = self.storage.capacity
        wanted = stored * self.storage.spec.replication * self.save.keep
        if capacity is None or wanted <= capacity:
            return
        size, room = format_quantity(stored, DATA), format_quantity(capacity, DATA)
        copies = f" in {self.storage.spec.replication} copies" if self.storage.spec.replication > 1 else ""
        message = (
            f"{self.save.keep} checkpoints of {size}{copies} do not fit into the {room} of {self.storage.spec.name}"
        )
        raise PlanError(Problem("", "checkpoint.keep", message, "keep fewer, save fewer bytes, or enlarge the storage"))
