"""What checks are made of: a function from a setup to problems that have no place yet.

Public: `Check`, `of_each_kind`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import wraps

from sim.errors import Problem
from sim.inputs.setup import Setup

Check = Callable[[Setup], Iterator[Problem]]
NODE = "cluster.node"  # begins the keys of a kind of node


def of_each_kind(check: Check) -> Check:
    """A check that holds for every kind of node: its problems stand at the keys of the kind that they are about."""

    @wraps(check)
    def checked(setup: Setup) -> Iterator[Problem]:
        kinds = setup.kinds
        if len(kinds) == 1:
            yield from check(kinds[0])
            return
        for number, kind in enumerate(kinds):
            for problem in check(kind):
                yield replace(problem, key=_at(problem.key, number))

    return checked


def _at(key: str, number: int) -> str:
    return f"{NODE}.{number}.node{key.removeprefix(NODE)}" if key.startswith(f"{NODE}.") else key
