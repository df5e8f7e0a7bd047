"""Whether storage, checkpoints and input can be done on a cluster: one small check per rule.

Public: `STORAGE_CHECKS`.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.errors import Problem, finding
from sim.inputs.cluster_checks import fabric_places
from sim.inputs.findings import Check
from sim.inputs.records import GraphFabric, TorusFabric
from sim.inputs.setup import Setup


def check_storage_servers(setup: Setup) -> Iterator[Problem]:
    """Some servers work, and files and their copies find enough of them."""
    storage = setup.storage
    if storage is None:
        return
    working = storage.servers - storage.failed_servers
    if working < 1:
        message = f"{storage.failed_servers} of {storage.servers} servers have failed, none is left"
        yield finding("cluster.storage.failed_servers", message, "let at least one work")
        return
    if storage.stripe is not None and storage.stripe > working:
        message = f"files spread over {storage.stripe} servers, {working} work"
        yield finding("cluster.storage.stripe", message, "reduce stripe, or leave it out to use all")
    if storage.replication > 1 and storage.kind != "replicated":
        message = f"{storage.replication} copies in a system of kind {storage.kind}"
        yield finding("cluster.storage.replication", message, "use kind: replicated")
    elif storage.replication > working:
        message = f"{storage.replication} copies on {working} working servers"
        yield finding("cluster.storage.replication", message, "copies lie on different servers")


def check_storage_attached(setup: Setup) -> Iterator[Problem]:
    """Servers on the compute network have a fabric with places for them."""
    storage, fabric = setup.storage, setup.cluster.fabric
    if storage is None or storage.network.kind != "compute":
        return
    key, way_out = "cluster.storage.network.kind", "use own"
    if storage.kind == "local_nvme":
        yield finding(key, "local drives are not on a network", "leave network out")
    elif fabric is None or isinstance(fabric, TorusFabric):
        what = "there is no network between nodes" if fabric is None else "a torus has no places for storage servers"
        yield finding(key, what, way_out)
    elif (places := fabric_places(setup)) is not None and not isinstance(fabric, GraphFabric):
        free = places - (setup.experiment.nodes or setup.cluster.nodes)
        if storage.servers > free:
            message = f"{storage.servers} servers for {free} free places of the fabric"
            yield finding(key, message, f"enlarge the fabric, or {way_out}")


def check_checkpoint_storage(setup: Setup) -> Iterator[Problem]:
    """Checkpoints have somewhere to go."""
    if setup.experiment.checkpoint is not None and setup.storage is None:
        message = "checkpoints need storage, and the cluster has none"
        yield finding("checkpoint", message, "give cluster.storage, by name or inline")


def check_checkpoint_interval(setup: Setup) -> Iterator[Problem]:
    """A fixed interval is given once, other policies find theirs."""
    save = setup.experiment.checkpoint
    if save is None:
        return
    given = [name for name in ("interval", "interval_steps") if getattr(save, name) is not None]
    if save.policy == "fixed" and len(given) != 1:
        message = "policy fixed needs interval or interval_steps" if not given else "both interval and interval_steps"
        way_out = "give one of them" + ("" if given else ", or policy: daly")
        yield finding("checkpoint.interval", message, way_out)
    elif save.policy != "fixed" and given:
        message = f"{given[0]} is given, but policy {save.policy} finds the interval itself"
        yield finding(f"checkpoint.{given[0]}", message, "leave it out, or use policy: fixed")


def check_checkpoint_copy(setup: Setup) -> Iterator[Problem]:
    """What blocks an asynchronous save is known: the copy into host memory."""
    save = setup.experiment.checkpoint
    if save is None or save.mode == "synchronous":
        return
    if save.host_copy_bandwidth is None and not all(kind.node.host.pcie_bandwidth for kind in setup.kinds):
        message = f"mode {save.mode} copies into host memory, at no known rate"
        yield finding("checkpoint.host_copy_bandwidth", message, "give it, such as 20 GB/s")
    if save.mode == "in_memory" and (setup.experiment.nodes or setup.cluster.nodes) == 1:
        yield finding("checkpoint.mode", "a copy in a peer's memory needs a second node", "use asynchronous")


def check_input(setup: Setup) -> Iterator[Problem]:
    """Training data comes from somewhere, and work on it has cores to run on."""
    data = setup.experiment.input
    if data is None:
        return
    if setup.storage is None:
        yield finding("input", "training data needs storage, and the cluster has none", "give cluster.storage")
    works = data.preprocessing > 0 or data.decompression_bandwidth is not None
    lacks = [kind.node.name for kind in setup.kinds if not (data.cores or kind.node.host.cores)]
    if works and lacks:
        message = f"{lacks[0]} has no known cores to prepare samples on"
        yield finding("input.cores", message, "give cores, or host.cores of the node")


STORAGE_CHECKS: tuple[Check, ...] = (
    check_storage_servers,
    check_storage_attached,
    check_checkpoint_storage,
    check_checkpoint_interval,
    check_checkpoint_copy,
    check_input,
)
