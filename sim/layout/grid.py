"""Ranks: their axes, their groups, and the accelerators they sit on."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.inputs.plan_checks import node_number
from sim.inputs.records import Parallelism
from sim.layout.mesh import Mesh, build_mesh
from sim.ragged import ranges
from sim.rng import stream

Ints = NDArray[np.int64]
AXES = ("tensor", "context", "data", "pipeline")
SEEDED = ("random", "random_nodes", "fragmented")  # placements that the seed moves
SHARED = ("tensor", "context", "data")  # axes whose ranks experts are divided over


@dataclass(frozen=True, eq=False)
class RankGrid:
    """All ranks of a job: on its axes, and where each of them runs.

    accelerator: (n_ranks,). expert, expert_tensor: ranks of a stage that hold different experts, or share a matrix.
    """

    mesh: Mesh
    accelerator: Ints
    expert: int = 1
    expert_tensor: int = 1

    @property
    def experts(self) -> Mesh:
        """The same ranks as experts see them: expert tensor, expert, and expert data ranks of each stage."""
        copies = prod(self.size[axis] for axis in SHARED) // (self.expert * self.expert_tensor)
        parts = {"expert_tensor": self.expert_tensor, "expert": self.expert, "expert_data": copies}
        return self.mesh.view(SHARED, parts)

    @property
    def n_ranks(self) -> int:
        """Ranks of the job."""
        return len(self.accelerator)

    @property
    def size(self) -> dict[str, int]:
        """Ranks along each axis."""
        return self.mesh.size

    @property
    def coordinate(self) -> dict[str, Ints]:
        """Position of each rank along each axis, (n_ranks,)."""
        return self.mesh.coordinate

    def groups(self, *axes: str) -> Ints:
        """Ranks that differ only along `axes`, of the job or of its experts: (n_groups, size), first axis fastest."""
        mesh = self.mesh if all(axis in self.mesh.size for axis in axes) else self.experts
        return mesh.groups(*axes)

    def shifted(self, axis: str, by: int) -> Ints:
        """For each rank the rank `by` further along `axis`, wrapping round, (n_ranks,)."""
        return self.mesh.shifted(axis, by)


def build_grid(parallelism: Parallelism, data: int, cluster: Cluster, seed: int, expert: int | None = None) -> RankGrid:
    """Number the ranks in `parallelism.order` and place them on the cluster; `expert`: if not as in `parallelism`."""
    size = {
        "tensor": parallelism.tensor,
        "context": parallelism.context,
        "data": data,
        "pipeline": parallelism.pipeline,
    }
    mesh = build_mesh({axis: size[axis] for axis in parallelism.order if axis in size})
    n_ranks = len(mesh.ranks)
    accelerator = place_ranks(parallelism.placement, n_ranks, cluster, seed, parallelism.on_nodes)
    return RankGrid(mesh, accelerator, expert or parallelism.expert, parallelism.expert_tensor)


def row_of_ranks(n_ranks: int) -> RankGrid:
    """Ranks in a row, each on the accelerator of its number."""
    mesh = build_mesh({"tensor": 1, "context": 1, "data": n_ranks, "pipeline": 1})
    return RankGrid(mesh, mesh.ranks)


def place_ranks(
    placement: str | tuple[int, ...], n_ranks: int, cluster: Cluster, seed: int, on: tuple[str, ...] | None = None
) -> Ints:
    """Accelerator of each rank, (n_ranks,).

    packed: in order. round_robin: one to each node in turn, over the nodes a packed job would use. random: packed,
    shuffled with the run's seed. random_nodes: the nodes of a packed job, shuffled. fragmented: nodes that happen to
    be free, drawn from all of the cluster with the seed, in order. A tuple is taken as it is. on: names of the nodes
    that there are, in their order; all of the cluster if absent.
    """
    if isinstance(placement, tuple):
        return np.array(placement, dtype=np.int64)
    nodes = np.arange(cluster.n_nodes) if on is None else np.array([node_number(name) for name in on])
    sizes = cluster.places.sizes[nodes]
    if placement == "fragmented":
        drawn = stream(seed, "placement").permutation(len(nodes))
        nodes = nodes[np.sort(drawn[: _enough(sizes[drawn], n_ranks)])]
    used = nodes[: _enough(cluster.places.sizes[nodes], n_ranks)]
    if placement == "random_nodes":
        used = used[stream(seed, "placement").permutation(len(used))]
    sizes = cluster.places.sizes[used]
    accelerators = ranges(cluster.places.first[used], sizes)
    if placement == "round_robin":
        node, local = np.repeat(np.arange(len(used)), sizes), ranges(np.zeros_like(sizes), sizes)
        accelerators = accelerators[np.lexsort((node, local))]
    accelerators = accelerators[:n_ranks]
    return accelerators[stream(seed, "placement").permutation(n_ranks)] if placement == "random" else accelerators


def _enough(sizes: Ints, n_ranks: int) -> int:
    """How many of the nodes of these sizes, from the first on, hold so many ranks."""
    return int(np.searchsorted(np.cumsum(sizes), n_ranks)) + 1
