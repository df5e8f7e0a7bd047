"""A plan search from files, and to a file.

Public: `Question`, `open_question`, `winning_file`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.ask.plan.axes import DATA, key_of, words_of
from sim.errors import ConfigError, Problem
from sim.inputs.cluster_checks import CLUSTER_CHECKS
from sim.inputs.load import LoadedExperiment, load_experiment
from sim.inputs.reader import plain, read_text
from sim.inputs.writer import extending, yaml_text
from sim.metrics.planning import PlanSearch


@dataclass(frozen=True)
class Question:
    """An experiment whose plan is asked for, and the values that keys are limited to.

    `wide`: what its software does not offer, too.
    """

    loaded: LoadedExperiment
    source: str | Mapping[str, Any]
    changes: dict[str, Any]  # by key path, what was set beside the source
    limits: dict[str, tuple[Any, ...]]
    wide: bool = False


def open_question(source: str | Mapping[str, Any], overrides: Sequence[str], space: Sequence[str]) -> Question:
    """Load an experiment, whose own plan need not be valid, and the limits `KEY=LIST` or `wide`. Raises ConfigError."""
    limits: dict[str, tuple[Any, ...]] = {}
    for text in (each for each in space if each != "wide"):
        name, separator, values = text.partition("=")
        if not separator or not values.strip():
            way_out = "as in tensor=1,2,4,8, or wide"
            raise ConfigError(Problem("--space", name, f"{text!r} is not of the form KEY=LIST", way_out))
        key = key_of(name.strip())
        words = words_of(key)
        limits[key] = tuple(
            item if isinstance(item, str) and item in words else _decoded(source, overrides, key, item)
            for item in _items(values)
        )
    loaded = load_experiment(source, overrides, checks=CLUSTER_CHECKS)
    return Question(loaded, source, dict(map(_changed, overrides)), limits, "wide" in space)


def _changed(override: str) -> tuple[str, Any]:
    path, _, value = override.partition("=")
    return path.strip(), plain(read_text(value.strip(), "--set"))


def _items(text: str) -> list[Any]:
    listed = plain(read_text(text if text.lstrip().startswith("[") else f"[{text}]", "--space"))
    return list(listed)


def _decoded(source: str | Mapping[str, Any], overrides: Sequence[str], key: str, item: Any) -> Any:
    """A value as the experiment holds it; wrong ones are refused as in any file."""
    value: Any = load_experiment(source, [*overrides, (key, item)], checks=()).experiment
    for name in key.split("."):
        value = getattr(value, name)
    return value


def winning_file(question: Question, search: PlanSearch, folder: Path | None = None) -> str:
    """The experiment with the best plan, as a YAML file that will lie in `folder`: question, and what the plan says.

    Where all accelerators work, `data` is left out, so that the plan fills clusters of other sizes too.
    """
    best, loaded = search.plans[search.choice], question.loaded
    values = {**best.values, "measured": None, **({} if best.accelerators_idle else {DATA: None})}
    unsaid = {key for key, value in values.items() if value is None and not _says(loaded.written, key)}
    values = {key: value for key, value in values.items() if key not in unsaid}
    stack = loaded.experiment.setup.software
    if stack.assumed and any(key.startswith("software.") for key in values):  # the file that is extended names none
        values = {"software.extends": stack.name, "software.assumed": True, **values}
    changes = {"name": f"{search.name}-best", **question.changes, **values}
    state = "best" if search.complete else "best so far"
    comment = f"The {state} of {search.enumerated:,} plans by {', '.join(search.objectives)}"
    comment += ", of near-equals the one with most memory to spare." if search.choice else "."
    return yaml_text(extending(question.source, changes, folder), comment)


def _says(written: Mapping[str, Any], path: str) -> bool:
    """Whether a mapping has a value at a key path."""
    found: Any = written
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found is not None
