"""Files that definitions name beside other definitions: a drawn network, recorded faults or steps, a grid's intensity.

Public: `NamedFile`, `named_files`, `read_named`, `drawn_by`, `recorded_content`, `MOST_BYTES`.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sim.errors import ConfigError
from sim.inputs.reader import read_bytes
from sim.inputs.records import ClusterSpec, Experiment, GraphFabric
from sim.inputs.reliability import Failures
from sim.inputs.setup import Setup

MOST_BYTES = 128 * 2**20


class NamedFile(NamedTuple):
    """A file, and the key that names it."""

    key: str
    path: Path

    @property
    def digest(self) -> str:
        """Of its content: as long as it is the same, so is what was made from the file. Raises ConfigError."""
        return hashlib.sha256(read_named(self.path, self.key)).hexdigest()


def read_named(path: Path, key: str) -> bytes:
    """The content of a file that `key` names. Raises ConfigError."""
    try:
        return read_bytes(path, MOST_BYTES)
    except ConfigError as error:
        raise ConfigError([replace(problem, key=key) for problem in error.problems]) from None


def named_files(experiment: Experiment) -> tuple[NamedFile, ...]:
    """All of a resolved experiment."""
    setup = experiment.setup
    failures, site, drawn = experiment.failures, setup.site, drawn_by(setup.cluster)
    log = failures.log.file if isinstance(failures, Failures) and failures.log else None
    replay = setup.workload.replay
    named = {
        "failures.log.file": log,
        "site.carbon_file": site.carbon_file if site else None,
        "workload.recording": replay.recording if replay else None,
        "measured.trace": experiment.measured.trace if experiment.measured else None,
        "measured.power_log": experiment.measured.power_log if experiment.measured else None,
    }
    others = tuple(NamedFile(key, Path(file)) for key, file in named.items() if file is not None)
    return (drawn, *others) if drawn else others


def drawn_by(cluster: ClusterSpec) -> NamedFile | None:
    """The GraphML file that draws the fabric of a cluster, if one does."""
    fabric = cluster.fabric
    if not isinstance(fabric, GraphFabric) or fabric.graphml is None:
        return None
    return NamedFile("cluster.fabric.graphml", Path(fabric.graphml))


def recorded_content(setup: Setup) -> str:
    """Digest of the file that holds the recorded step, if one is run again; else nothing. Raises ConfigError."""
    replay = setup.workload.replay
    return NamedFile("workload.recording", Path(replay.recording)).digest if replay else ""
