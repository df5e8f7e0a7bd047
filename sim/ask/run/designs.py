"""Designs by what a user types: stored results, or experiments that are simulated for the purpose.

Public: `named_designs`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sim.ask.run.simulate import simulate
from sim.errors import ConfigError, Problem
from sim.inputs.load import load_experiment
from sim.metrics.result import Result
from sim.report.compare import told_apart
from sim.report.jsonout import read_result


def named_designs(texts: Sequence[str]) -> tuple[tuple[str, ...], list[Result]]:
    """Name and result of each design `[NAME=]RESULT|FILE|NAME`, in order.

    Without a name of its own a design has that of its result; where several share one, that of its file or folder, and
    a number where that does not tell them apart either. Raises ConfigError, also for two of one's own that are equal.
    """
    pairs = [_split(text) for text in texts]
    results = [_result(where) for _, where in pairs]
    often = Counter(result.name for result in results)
    own = [name for name, _ in pairs if name]
    for name, where in pairs:
        if own.count(name) > 1:
            raise ConfigError(Problem(where, "", f"two designs are called {name!r}", "give each a name of its own"))
    names = [
        name or (_of_place(where) if often[result.name] > 1 else result.name)
        for (name, where), result in zip(pairs, results, strict=True)
    ]
    return told_apart(names), results


def _split(text: str) -> tuple[str, str]:
    """The name of one's own and the rest; a path that has `=` in it is a path."""
    name, equals, where = text.partition("=")
    return ("", text) if not equals or Path(text).exists() else (name.strip(), where)


def _result(where: str) -> Result:
    path = Path(where)
    stored = path.suffix == ".json" or path.is_dir()
    return read_result(path) if stored else simulate(load_experiment(where).experiment)


def _of_place(where: str) -> str:
    path = Path(where)
    return path.parent.name if path.name == "result.json" else path.name if path.is_dir() else path.stem
