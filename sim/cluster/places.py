"""Which node has which accelerators: the one place that knows how they are numbered.

Accelerators are numbered node by node. Nodes may have different numbers of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Places:
    """first: (n_nodes+1,) first accelerator of each node, and the number of all of them at the end."""

    first: Ints

    @property
    def n_nodes(self) -> int:
        """Nodes."""
        return len(self.first) - 1

    @property
    def n(self) -> int:
        """Accelerators of all nodes."""
        return int(self.first[-1])

    @property
    def sizes(self) -> Ints:
        """Accelerators of each node, (n_nodes,)."""
        return np.diff(self.first)

    @cached_property  # (n_accelerators,), read by every route
    def _node(self) -> Ints:
        return np.repeat(np.arange(self.n_nodes), self.sizes)

    def node_of(self, accelerators: Ints) -> Ints:
        """Node of each accelerator, same shape."""
        return self._node[accelerators]

    def split(self, accelerators: Ints) -> tuple[Ints, Ints]:
        """Node of each accelerator, and its number inside it, same shape each."""
        node = self.node_of(accelerators)
        return node, accelerators - self.first[node]

    def at(self, node: Ints, local: Ints) -> Ints:
        """Accelerator of each number inside a node; the two broadcast."""
        return self.first[node] + local

    def on(self, nodes: float) -> float:
        """Accelerators of so many nodes, where it is not known which: as many each as all have on average."""
        return nodes * self.n / self.n_nodes


def places_of(sizes: Ints) -> Places:
    """Nodes with these numbers of accelerators, (n_nodes,)."""
    first = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=first[1:])
    return Places(first)
