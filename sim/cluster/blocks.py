"""Names of vertices, made on demand from blocks of equal parts.

A block is a run of vertices of one kind with a rectangular index: 16 nodes of 8 accelerators are one
block of shape (16, 8) and pattern "node{}/gpu{}". No list of names is ever stored for a generated
network, and a name is read back by its digits.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from sim.errors import ConfigError, Problem

_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class VertexBlock:
    """Vertices `first` to `first + n - 1`, of one kind, numbered row by row over `shape`."""

    kind: str
    pattern: str  # one {} per dimension of shape; "" where names are listed
    first: int
    shape: tuple[int, ...]
    names: tuple[str, ...] = ()  # explicit names of a network the user drew
    start: int = 0  # number that counting along the first dimension begins with

    @property
    def n(self) -> int:
        """Vertices in the block."""
        return prod(self.shape)

    @property
    def end(self) -> int:
        """The first vertex behind the block."""
        return self.first + self.n

    def name(self, vertex: int) -> str:
        """Name of a vertex of this block."""
        return self.names[vertex - self.first] if self.names else self.pattern.format(*self._index(vertex - self.first))

    def find(self, name: str) -> int | None:
        """The vertex of that name, if it is in this block."""
        if self.names:
            return self.first + self.names.index(name) if name in self.names else None
        index = [int(digits) for digits in _DIGITS.findall(name)]
        if len(index) != len(self.shape) or self.pattern.format(*index) != name:
            return None
        if index:
            index[0] -= self.start
        inside = all(0 <= i < n for i, n in zip(index, self.shape, strict=True))
        return self.first + self._number(index) if inside else None

    def examples(self) -> Sequence[str]:
        """Names to offer when one was not found: all listed ones, or the last of the pattern."""
        return self.names or (self.name(self.end - 1),)

    def _index(self, number: int) -> list[int]:
        index = []
        for n in reversed(self.shape):
            number, i = divmod(number, n)
            index.append(i)
        if index:
            index[-1] += self.start
        return index[::-1]

    def _number(self, index: Sequence[int]) -> int:
        number = 0
        for i, n in zip(index, self.shape, strict=True):
            number = number * n + i
        return number


def block_of(blocks: Sequence[VertexBlock], vertex: int) -> VertexBlock:
    """The block a vertex belongs to; IndexError if there is no such vertex."""
    for block in blocks:
        if block.first <= vertex < block.end:
            return block
    raise IndexError(f"vertex {vertex} of {blocks[-1].end}")


def find_vertex(blocks: Sequence[VertexBlock], name: str, key: str = "") -> int:
    """The vertex of that name; ConfigError with the nearest names if there is none."""
    for block in blocks:
        vertex = block.find(name)
        if vertex is not None:
            return vertex
    raise ConfigError(Problem("", key, f"no part is called {name!r}", _suggestion(blocks, name)))


def _suggestion(blocks: Sequence[VertexBlock], name: str) -> str:
    for block in blocks:
        if block.pattern and _DIGITS.sub("{}", name) == block.pattern:
            return f"{block.kind} names run from {block.name(block.first)} to {block.name(block.end - 1)}"
    examples = [example for block in blocks if block.n for example in block.examples()]
    near = difflib.get_close_matches(name, examples, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(examples[:6])}"
