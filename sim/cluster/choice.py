"""Choice among equal paths: by destination, by hash, or all of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Ints
from sim.inputs.records import Routing

_GOLDEN = 0x9E3779B97F4A7C15  # splitmix64 (Steele, Lea, Flood, OOPSLA 2014)


def choose_paths(routing: Routing, source: Ints, target: Ints, destination: Ints, key: Ints, n_paths: int) -> Ints:
    """Path numbers (n, k) in [0, n_paths) that connection i uses, each for 1/k of its bytes.

    source, target: adapters; destination: what d-mod-k counts, so that the adapters of one leaf
    spread over all paths; key: feeds the hash of ecmp together with the seed.
    """
    if routing.kind == "d_mod_k":
        return (destination % n_paths)[:, None]
    if routing.kind == "spray":
        return np.broadcast_to(np.arange(n_paths), (len(source), n_paths))
    return hash_paths(routing, source, target, key, n_paths)


def hash_paths(routing: Routing, source: Ints, target: Ints, key: Ints, n_paths: int | Ints) -> Ints:
    """One hashed path number per connection and queue pair, (n, queue_pairs), below n_paths (a number or (n,))."""
    state = np.full(len(source), routing.seed, np.uint64)
    for part in (source, target, key):
        state = _mix(state ^ part.astype(np.uint64))
    pairs = np.arange(routing.queue_pairs, dtype=np.uint64)
    mixed = _mix(state[:, None] ^ pairs)
    return (mixed % np.reshape(n_paths, (-1, 1)).astype(np.uint64)).astype(np.int64)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The splitmix64 step: adds the golden ratio and scrambles, so that close inputs part."""
    z = value + np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
