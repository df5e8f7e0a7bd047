"""Ranks: their coordinates, their groups, and the accelerators they sit on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.rng import stream
from sim.spec.records import Parallelism

Ints = NDArray[np.int64]
DIMENSIONS = ("tensor", "context", "expert", "data", "pipeline")


@dataclass(frozen=True)
class RankGrid:
    """All ranks of a job.

    size: ranks along each dimension. coordinate[d]: (n_ranks,) position along dimension d.
    stride[d]: distance in rank number of neighbours along d. accelerator: (n_ranks,) where each
    rank runs.
    """

    size: dict[str, int]
    stride: dict[str, int]
    coordinate: dict[str, Ints]
    accelerator: Ints

    @property
    def n_ranks(self) -> int:
        """Ranks of the job."""
        return len(self.accelerator)

    def groups(self, *dimensions: str) -> Ints:
        """Ranks that differ only along `dimensions`: (n_groups, group size), first dimension fastest."""
        ranks = np.arange(self.n_ranks)
        origin = np.all([self.coordinate[d] == 0 for d in dimensions], axis=0)
        offset = np.zeros(1, dtype=np.int64)
        for d in dimensions:
            steps = np.arange(self.size[d]) * self.stride[d]
            offset = (steps[:, None] + offset[None, :]).ravel()
        return ranks[origin][:, None] + offset[None, :]

    def shifted(self, dimension: str, by: int) -> Ints:
        """For each rank the rank `by` further along `dimension`, wrapping round, (n_ranks,)."""
        here = self.coordinate[dimension]
        there = (here + by) % self.size[dimension]
        return np.arange(self.n_ranks) + (there - here) * self.stride[dimension]


def build_grid(parallelism: Parallelism, data: int, cluster: Cluster, seed: int) -> RankGrid:
    """Number the ranks in `parallelism.order` and place them on the cluster."""
    size = {
        "tensor": parallelism.tensor,
        "context": parallelism.context,
        "expert": parallelism.expert,
        "data": data,
        "pipeline": parallelism.pipeline,
    }
    n_ranks = int(np.prod(list(size.values())))
    ranks, step = np.arange(n_ranks), 1
    stride: dict[str, int] = {}
    coordinate: dict[str, Ints] = {}
    for dimension in parallelism.order:
        stride[dimension] = step
        coordinate[dimension] = ranks // step % size[dimension]
        step *= size[dimension]
    return RankGrid(size, stride, coordinate, place_ranks(parallelism.placement, n_ranks, cluster, seed))


def place_ranks(placement: str | tuple[int, ...], n_ranks: int, cluster: Cluster, seed: int) -> Ints:
    """Accelerator of each rank, (n_ranks,).

    packed: in order. round_robin: one to each node in turn, over the nodes a packed job would use.
    random: packed, shuffled with the run's seed. A tuple is taken as it is.
    """
    ranks = np.arange(n_ranks)
    if isinstance(placement, tuple):
        return np.array(placement, dtype=np.int64)
    if placement == "round_robin":
        used = int(cluster.places.first[cluster.node_of(ranks[-1:]) + 1][0])
        node, local = cluster.places.split(np.arange(used))
        return np.lexsort((node, local))[:n_ranks]
    if placement == "random":
        return stream(seed, "placement").permutation(n_ranks)
    return ranks
