"""Storage systems, and the two kinds of traffic they see: checkpoints and training data.

Public: `Storage`, `Checkpointing`, `InputPipeline`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sim.record import Name, Record
from sim.units import Bytes, BytesPerSecond, Count, Fraction, Seconds


class StorageNetwork(Record):
    """How nodes reach a shared storage system."""

    kind: Literal["compute", "own"] = Field(default="own", description="compute: each server takes the place of a node in the fabric, with its adapters; own: a storage network beside it")
    node_bandwidth: BytesPerSecond | None = Field(default=None, gt=0, description="own: node to storage network, per direction; not a limit if absent")
    server_bandwidth: BytesPerSecond | None = Field(default=None, gt=0, description="own: server to storage network, per direction; not a limit if absent")
    latency: Seconds = Field(default=0.0, ge=0, description="own: node to server, one way")


class Requests(Record):
    """How data is asked for, and how much asking a storage system stands."""

    size: Bytes | None = Field(default=None, gt=0, description="largest part one request moves; a whole file if absent")
    latency: Seconds = Field(default=0.0, ge=0, description="from a request to its first byte")
    read_rate: float | None = Field(default=None, ge=1e-6, le=1e18, description="reading requests per second, all servers together; no limit if absent")
    write_rate: float | None = Field(default=None, ge=1e-6, le=1e18, description="writing requests per second, all servers together; no limit if absent")
    metadata_rate: float | None = Field(default=None, ge=1e-6, le=1e18, description="files opened or created per second; no limit if absent")
    connection_bandwidth: BytesPerSecond | None = Field(default=None, gt=0, description="one connection; not a limit if absent")
    connections: Count = Field(default=1, ge=1, le=1_000_000, description="connections that one rank keeps open")


class Storage(Record):
    """One storage system of a cluster."""

    name: Name = Field(description="the name it is found by")
    description: str = Field(default="", description="one line for people")
    kind: Literal["parallel_file_system", "object_store", "replicated", "local_nvme"] = Field(default="parallel_file_system", description="object_store and parallel_file_system differ in their numbers only; replicated (HDFS): a server passes what it is given on to others; local_nvme: drives in every node, which other nodes do not reach")
    servers: Count = Field(default=1, ge=1, le=100_000, description="servers that share load and capacity evenly; local_nvme: drives of one node")
    failed_servers: Count = Field(default=0, ge=0, description="servers that are down; the others carry on")
    capacity: Bytes | None = Field(default=None, gt=0, description="all servers together, before replication; no limit if absent")
    read_bandwidth: BytesPerSecond = Field(gt=0, description="all servers together")
    write_bandwidth: BytesPerSecond = Field(gt=0, description="all servers together")
    stripe: Count | None = Field(default=None, ge=1, description="servers that one file is spread over; all of them if absent")
    replication: Count = Field(default=1, ge=1, description="copies of each byte (replicated)")
    requests: Requests = Field(default=Requests(), description="latency and rates of requests")
    network: StorageNetwork = Field(default=StorageNetwork(), description="how nodes reach it; local_nvme needs none")
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to the source of its numbers")


# What one rank serialises where nobody says [B/s]: 12 bytes for each of 8.03e9 parameters, an eighth of them on each
# of 8 H100, blocked for 27.3 s, so 0.44 GB/s (NVIDIA-NeMo/Automodel PR 635).
SERIALIZATION_BANDWIDTH = 0.45e9


class Checkpointing(Record):
    """How the state of a training is saved, how often, and how it comes back."""

    mode: Literal["synchronous", "asynchronous", "in_memory"] = Field(default="synchronous", description="synchronous: training waits until the state is stored; asynchronous: it waits for a copy in host memory, which drains to storage beside training; in_memory: asynchronous, and between persistent saves copies to a peer node's memory")
    policy: Literal["fixed", "young", "daly", "optimal"] = Field(default="fixed", description="where the time between saves comes from: interval, Young's or Daly's formula, or the best found by simulation")
    interval: Seconds | None = Field(default=None, gt=0, description="time between saves (policy fixed)")
    interval_steps: Count | None = Field(default=None, ge=1, description="steps between saves (policy fixed), instead of interval")
    peer_interval_steps: Count = Field(default=1, ge=1, description="steps between copies to the peer (mode in_memory)")
    bytes_per_parameter: float | None = Field(default=None, ge=1e-6, le=1e6, description="saved bytes per parameter; from the precision if absent: 14 with 16-bit weights, 32-bit master copy and Adam moments, 12 with 32-bit weights; 10 leaves the master copy out, 2 saves 16-bit weights alone")
    writers: Literal["all", "one_replica"] = Field(default="all", description="all: equal replicas of a shard write a part each; one_replica: the first writes all of it")
    restore: Literal["each", "broadcast"] = Field(default="each", description="each: every rank reads all that it needs; broadcast: every byte is read once, and replicas pass it on over the network")
    serialization_bandwidth: BytesPerSecond | None = Field(default=None, gt=0, description="bytes of its state that one rank turns into a file in a second, before compression; 0.45 GB/s if absent: 8B on 8 H100 blocked for 27.3 s (NVIDIA-NeMo/Automodel PR 635), and ranks of PyTorch write 0.4 to 0.5 GB/s")
    compression_ratio: float = Field(default=1.0, ge=1, le=1e6, description="bytes before compression over bytes after it")
    compression_bandwidth: BytesPerSecond | None = Field(default=None, gt=0, description="input rate of compression, per rank; no cost if absent")
    decompression_bandwidth: BytesPerSecond | None = Field(default=None, gt=0, description="output rate of decompression, per rank; no cost if absent")
    host_copy_bandwidth: BytesPerSecond | None = Field(default=None, gt=0, description="accelerator to host memory, per accelerator; the node's host.pcie_bandwidth if absent")
    keep: Count = Field(default=2, ge=1, le=1_000_000_000, description="checkpoints that storage holds at a time, the one being written included")


class InputPipeline(Record):
    """How training data comes to the accelerators: one rank of each replica reads, and its workers prepare batches ahead."""

    record: Bytes = Field(gt=0, description="mean size of a record in storage, compressed")
    record_deviation: Bytes = Field(default=0.0, ge=0, description="standard deviation of the size of a record (normal, cut at 0)")
    records_per_sample: float = Field(default=1.0, ge=1e-9, le=1e9, description="records that make one sample (a sequence of the batch)")
    records_per_file: float = Field(default=1.0, ge=1e-9, le=1e12, description="records that one opened file, and one wait for its first byte, give")
    compression_ratio: float = Field(default=1.0, ge=1, le=1e6, description="bytes after decompression over bytes stored")
    decompression_bandwidth: BytesPerSecond | None = Field(default=None, gt=0, description="output rate of decompression on one core; no cost if absent")
    preprocessing: Seconds = Field(default=0.0, ge=0, description="time of one core to decode and prepare a sample")
    cores: Count | None = Field(default=None, ge=1, le=1_000_000, description="host cores of a node that work on input; all if absent")
    workers: Count = Field(default=4, ge=1, le=10_000, description="workers of a replica; each reads and prepares one batch at a time, on one core")
    prefetch: Count = Field(default=8, ge=0, le=1_000_000, description="batches of a replica begun ahead of the one in use; 0: begun when it is asked for")
    shuffle_buffer: Bytes = Field(default=0.0, ge=0, description="records held in host memory to draw from, per replica, as stored; filled before the first step")
    cached: Fraction = Field(default=0.0, description="share of the records that host memory serves, after the first epoch")
