"""What checks are made of: a function from a setup to problems that have no place yet.

Public: `Check`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sim.errors import Problem
from sim.inputs.setup import Setup

Check = Callable[[Setup], Iterator[Problem]]
