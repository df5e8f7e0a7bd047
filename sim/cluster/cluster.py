"""The border between hardware and everything above: link arrays, names and routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sim.spec.records import Accelerator, ClusterSpec, Node

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Routes:
    """Paths of n connections in CSR form.

    Connection i crosses links `link[start[i]:start[i+1]]`, the j-th with the share `share[j]` of its
    bytes (1 on a single path, 1/paths when sprayed or hashed over several). `latency[i]` is the sum
    of link latencies along (the mean of) its path [s].
    """

    start: Ints  # (n+1,)
    link: Ints  # (nnz,)
    share: Floats  # (nnz,)
    latency: Floats  # (n,) s


@dataclass(frozen=True)
class Links:
    """Every directed capacity. A full-duplex cable is two links.

    capacity is payload rate: line rate times efficiency [B/s]. source and target index vertices.
    """

    capacity: Floats  # (n_links,) B/s
    latency: Floats  # (n_links,) s
    source: Ints  # (n_links,)
    target: Ints  # (n_links,)


class Router(Protocol):
    """Routing as a strategy."""

    def routes(self, source: Ints, target: Ints, key: Ints) -> Routes:
        """Paths from accelerator `source[i]` to accelerator `target[i]`; `key[i]` feeds the hash."""


@dataclass(frozen=True)
class Cluster:
    """A built cluster: what exists, in arrays.

    Accelerators are numbered node by node: accelerator a is number a % accelerators_per_node of node
    a // accelerators_per_node. Vertices (accelerators, local switches, adapters, switches) are
    numbered once; `vertex_name` and `link_name` make names on demand. `speed[a]` scales the
    arithmetic of accelerator a (1 is healthy).
    """

    spec: ClusterSpec
    node: Node  # the server kind
    accelerator: Accelerator  # the accelerator kind
    n_nodes: int
    accelerators_per_node: int
    links: Links
    speed: Floats  # (n_accelerators,)
    router: Router

    @property
    def n_accelerators(self) -> int:
        """Accelerators in the cluster."""
        return self.n_nodes * self.accelerators_per_node
