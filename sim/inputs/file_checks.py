"""Whether the files that an experiment names can be read, and say what they should: one small check per file.

Public: `FILE_CHECKS`, `problems_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from sim.errors import ConfigError, Problem, finding
from sim.inputs.carbon import grid_of
from sim.inputs.fault_log import read_fault_log
from sim.inputs.findings import Check
from sim.inputs.measured import measured_of
from sim.inputs.named_files import drawn_by
from sim.inputs.recording import read_recording
from sim.inputs.reliability import Failures
from sim.inputs.setup import Setup


def check_grid_file(setup: Setup) -> Iterator[Problem]:
    """The intensity of the grid can be read."""
    site = setup.site
    if site is not None:
        yield from problems_of(lambda: grid_of(site))


def check_fault_log(setup: Setup) -> Iterator[Problem]:
    """Recorded faults can be read, and are of no more nodes than were observed."""
    failures = setup.experiment.failures
    if not isinstance(failures, Failures) or failures.log is None:
        return
    log = failures.log
    unreadable = problems_of(lambda: read_fault_log(log))
    if unreadable:
        yield from unreadable
        return
    seen = 1 + max((outage.node for outage in read_fault_log(log)), default=-1)
    if seen > log.nodes:
        message = f"{seen} nodes have faults in {log.file}, more than the {log.nodes} observed"
        yield finding("failures.log.nodes", message, f"give at least {seen}")


def check_drawing(setup: Setup) -> Iterator[Problem]:
    """A drawn network can be read; what it says is looked at where it is built."""
    drawn = drawn_by(setup.cluster)
    if drawn is not None:
        yield from problems_of(lambda: drawn.digest)


def check_recording(setup: Setup) -> Iterator[Problem]:
    """A recorded step can be read, and is of the job that the workload says."""
    replay = setup.workload.replay
    if replay is None:
        return
    if setup.experiment.synchronization is not None:
        yield finding("synchronization", "workers of a recorded step are in step as they were", "leave it out")
    unreadable = problems_of(lambda: read_recording(Path(replay.recording)))
    if unreadable:
        yield from unreadable
    elif (world := read_recording(Path(replay.recording)).world) != replay.ranks:
        yield finding("workload.ranks", f"{replay.recording} is of {world} ranks, not {replay.ranks}", f"say {world}")


def check_measured_files(setup: Setup) -> Iterator[Problem]:
    """A step and power that were recorded to compare with can be read."""
    measured = setup.experiment.measured
    if measured is not None:
        for name in ("trace", "power_log"):
            alone = measured.model_copy(update={other: None for other in ("trace", "power_log") if other != name})
            for problem in problems_of(lambda alone=alone: measured_of(alone)):  # type: ignore[misc]
                yield replace(problem, key=f"measured.{name}")


def problems_of(read: Callable[[], object]) -> list[Problem]:
    """What `read` finds wrong."""
    try:
        read()
    except ConfigError as error:
        return error.problems
    return []


FILE_CHECKS: tuple[Check, ...] = (
    check_grid_file,
    check_fault_log,
    check_drawing,
    check_measured_files,
    check_recording,
)
