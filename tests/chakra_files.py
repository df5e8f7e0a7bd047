"""Chakra traces for tests: nodes with few words, and files of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sim.imports.chakra_file import COMM_COLL, COMM_RECV, COMM_SEND, COMP, ChakraNode, Value, chakra_bytes


def kernel(
    number: int, *waits: int, us: int = 10, name: str = "gemm", control: Sequence[int] = (), **said: Value
) -> ChakraNode:
    """Computation on a device."""
    return ChakraNode(number, name, COMP, tuple(control), waits, 0, us, {"is_cpu_op": False, **said})


def host(number: int, *waits: int, us: int = 5, control: Sequence[int] = (), tid: int = 1) -> ChakraNode:
    """Work of a thread."""
    return ChakraNode(number, "aten::mm", COMP, tuple(control), waits, 0, us, {"is_cpu_op": True, "tid": tid})


def collective(number: int, *waits: int, kind: int = 0, size: int = 2**20, us: int = 0, **said: Value) -> ChakraNode:
    """An all-reduce, unless said otherwise."""
    attributes: dict[str, Value] = {"is_cpu_op": False, "comm_type": kind, "comm_size": size, **said}
    return ChakraNode(number, "nccl", COMM_COLL, (), waits, 0, us, attributes)


def message(number: int, *waits: int, to: int = -1, by: int = -1, size: int = 2**17, tag: int = 0) -> ChakraNode:
    """A send to rank `to`, or a receive from rank `by`."""
    ends = {"comm_dst": to} if to >= 0 else {"comm_src": by}
    attributes: dict[str, Value] = {"comm_size": size, "comm_tag": tag, **ends}
    return ChakraNode(number, "message", COMM_SEND if to >= 0 else COMM_RECV, (), waits, 0, 0, attributes)


def write_ranks(folder: Path, ranks: Sequence[Iterable[ChakraNode]], prefix: str = "t", **said: Any) -> Path:
    """A file for each rank; returns the folder."""
    folder.mkdir(exist_ok=True)
    for number, nodes in enumerate(ranks):
        (folder / f"{prefix}.{number}.et").write_bytes(b"".join(chakra_bytes(nodes, said)))
    return folder
