"""What was measured of a run, also where a recorded step or a log of power says it.

Public: `measured_of`, `CommunicationShares`, `communication_shares`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.inputs.power_log import read_power_log
from sim.inputs.recording import COLLECTIVE, HOST, RecordedRank, Recording, read_recording
from sim.inputs.records import Measured

Floats = NDArray[np.float64]


class CommunicationShares(NamedTuple):
    """exposed: share of the step in which a rank communicates and computes nothing. overlapped: share of the time of
    its collectives beside which it computes. Waiting for others in a collective counts, as for a profiler."""

    exposed: float
    overlapped: float


def measured_of(measured: Measured | None) -> Measured | None:
    """The measurement, with what its trace and its log of power say where no key does. Raises ConfigError."""
    if measured is None:
        return None
    said: dict[str, float] = {}
    if measured.power_log is not None:
        said["power"] = read_power_log(Path(measured.power_log)).mean
    if measured.trace is not None:
        recording = read_recording(Path(measured.trace))
        said["step_time"], shares = recording.step, communication_shares(recording)
        if shares is not None:
            said |= {"exposed_communication": shares.exposed, "overlapped_communication": shares.overlapped}
    return measured.model_copy(update={name: value for name, value in said.items() if getattr(measured, name) is None})


def communication_shares(recording: Recording) -> CommunicationShares | None:
    """Means over the ranks, by the recorded begin of each node; None where begins are not known."""
    every = [rank for rank in recording.ranks if (rank.start[rank.kind != HOST] >= 0).all()]
    if len(every) < len(recording.ranks):
        return None
    times = np.array([_times(rank) for rank in every])
    exposed, communicating = times[:, 0], times[:, 1]
    steps = np.array([rank.step for rank in every])
    hidden = float((communicating - exposed).sum())
    return CommunicationShares(float((exposed / steps).mean()), hidden / max(float(communicating.sum()), 1e-300))


def _times(rank: RecordedRank) -> tuple[float, float]:
    """Seconds in which a rank communicates and computes nothing, and in which it communicates."""
    end = rank.start + rank.seconds
    moves, works = rank.kind == COLLECTIVE, (rank.kind != COLLECTIVE) & (rank.kind != HOST)
    edges = np.unique(np.concatenate([rank.start[moves | works], end[moves | works]]))
    widths = np.diff(edges)
    moving, working = (_covered(edges, rank.start[which], end[which]) for which in (moves, works))
    return float(widths[moving & ~working].sum()), float(widths[moving].sum())


def _covered(edges: Floats, start: Floats, end: Floats) -> NDArray[np.bool_]:
    """Which stretches between edges some span covers, (n_edges - 1,)."""
    depth = np.zeros(len(edges) + 1, dtype=np.int64)
    np.add.at(depth, np.searchsorted(edges, start), 1)
    np.add.at(depth, np.searchsorted(edges, end), -1)
    return np.asarray(np.cumsum(depth)[: max(len(edges) - 1, 0)] > 0)
