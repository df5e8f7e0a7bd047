"""A design as the page holds it: what it begins with, and what was changed.

Public: `Design`, `open_design`, `yaml_of`, `Opened`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sim.errors import ConfigError, Problem
from sim.inputs.cluster_checks import CLUSTER_CHECKS
from sim.inputs.load import LoadedExperiment, load_experiment
from sim.inputs.reader import SourceNode, plain, read_text
from sim.inputs.writer import extending, yaml_text

OPENED = "opened.yaml"  # what messages call a text that has no file
# A failure drawn on the page needs somewhere to fall back on; said in the notes and in the YAML.
FALLBACK = {
    "recovery": {"warm_spares": 1},
    "checkpoint": {"mode": "asynchronous", "interval": "30 min", "host_copy_bandwidth": "20 GB/s"},
}
STORE = "s3"
SIZING = {"nodes", "cluster", "parallelism.tensor", "parallelism.pipeline", "parallelism.context"}


@dataclass(frozen=True)
class Design:
    """A name, a path or the text of an experiment, and values by key path, written as in YAML."""

    base: str = ""
    text: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, asked: Any) -> Design:
        """The design that a request describes. Raises ConfigError where it describes none."""
        if not isinstance(asked, dict) or not isinstance(asked.get("set", {}), dict):
            raise ConfigError(Problem("request", "", "must be a mapping with base or text, and set"))
        base, text = asked.get("base", ""), asked.get("text", "")
        if not isinstance(base, str) or not isinstance(text, str) or not (base or text):
            raise ConfigError(Problem("request", "base", "must name an experiment"))
        return cls(base, text, asked.get("set", {}))


@dataclass(frozen=True)
class Opened:
    """A design as an experiment; assumed: what the page filled in beside what was asked, in words."""

    loaded: LoadedExperiment
    changes: dict[str, Any]
    assumed: tuple[str, ...]


def open_design(design: Design, *, planned: bool = True) -> Opened:
    """Load and check a design; where it is not yet `planned`, its own plan need not be valid. Raises ConfigError."""
    source = _read(design.text) if design.text else design.base
    changes, assumed = _completed(dict(design.changes), source)
    pairs = list(changes.items())
    loaded = load_experiment(source, pairs) if planned else load_experiment(source, pairs, checks=CLUSTER_CHECKS)
    return Opened(loaded, changes, assumed)


def _read(text: str) -> SourceNode:
    found = read_text(text, OPENED)
    if not isinstance(found.value, dict):
        raise ConfigError(Problem(str(found.mark), "", "must be a mapping, the text of an experiment"))
    return found


def _completed(changes: dict[str, Any], source: str | SourceNode) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The changes, with a place to save to where failures were drawn on the page and nothing is saved."""
    if changes:
        changes.setdefault("measured", None)
    if not SIZING.isdisjoint(changes):
        changes.setdefault("parallelism.data", None)  # replicas fill what there is
    if changes.get("failures") is None:
        return changes, ()
    written = load_experiment(source, (), checks=()).experiment
    if written.checkpoint is not None:
        return changes, ()
    filled = dict(FALLBACK if written.recovery.warm_spares == 0 else {"checkpoint": FALLBACK["checkpoint"]})
    if written.setup.storage is None:
        filled["cluster.storage"] = STORE
    said = f"saves every 30 min to {STORE}, and a warm spare, are assumed: a training that fails needs them"
    return {**filled, **changes}, (said,)


def yaml_of(design: Design) -> str:
    """The design as a file that `clustersim run` takes. Raises ConfigError."""
    opened = open_design(design, planned=False)
    source = plain(_read(design.text)) if design.text else design.base
    return yaml_text(extending(source, opened.changes), "Made with clustersim explore.")
