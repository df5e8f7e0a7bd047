"""Tables of measured collectives: time or bus bandwidth over message size, on a named platform.

Public: `Curve`, `CurveTable`, `MeasuredCurve`, `is_curve_table`, `load_curves`, `load_curve_table`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sim.errors import ConfigError, Problem
from sim.inputs.cases import LeftOut
from sim.inputs.problems import decode
from sim.inputs.reader import SourceNode, read_file
from sim.inputs.records import ClusterSpec
from sim.inputs.resolve import Resolver
from sim.record import Record
from sim.units import Count

CollectiveName = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]


class Curve(Record):
    """One collective on one platform over message size, as nccl-tests counts both."""

    name: str = Field(min_length=1, description="its own name in the table")
    cluster: Any = Field(description="cluster by name, path or inline")
    nodes: Count = Field(default=1, ge=1, description="servers that took part")
    accelerators: Count | None = Field(default=None, ge=1, description="ranks in each server; all it has if absent")
    collective: CollectiveName = Field(default="all_reduce", description="what was run")
    algorithm: Literal["ring", "tree", "in_network"] | None = Field(default=None, description="the one that was forced")
    unit: Literal["GB/s", "us"] = Field(description="GB/s: bus bandwidth; us: time")
    rows: tuple[tuple[Count, float], ...] = Field(min_length=1, description="message size in bytes, measured value")
    source: str = Field(min_length=1, description="where it was read")
    assumed: str = Field(default="", description="what had to be assumed")


class CurveTable(Record):
    """Measured collectives of one kind of platform."""

    notes: str = Field(default="", description="what a reader of the errors should know")
    curves: tuple[Curve, ...] = Field(description="one for each platform, collective and number of ranks")
    left_out: tuple[LeftOut, ...] = Field(default=(), description="measurements that are not compared, with the reason")


@dataclass(frozen=True)
class MeasuredCurve:
    """A curve with its platform resolved, at the size of the run."""

    curve: Curve
    cluster: ClusterSpec
    path: Path


def is_curve_table(path: Path) -> bool:
    """Whether the YAML file is a table of collectives. Raises ConfigError."""
    return "curves" in read_file(path).value


def load_curve_table(path: Path) -> CurveTable:
    """The table as a record; its platforms are not looked up. Raises ConfigError."""
    decoded = decode(CurveTable, read_file(path))
    if isinstance(decoded, list):
        raise ConfigError(decoded)
    return decoded


def load_curves(path: Path) -> list[MeasuredCurve]:
    """All curves of a table with their platforms. Raises ConfigError with the places of all mistakes."""
    table = load_curve_table(path)
    nodes: list[SourceNode] = read_file(path).value["curves"].value
    problems: list[Problem] = []
    found: list[MeasuredCurve] = []
    for curve, node in zip(table.curves, nodes, strict=True):
        try:
            found.append(MeasuredCurve(curve, _platform(curve, node.value["cluster"], path), path))
        except ConfigError as error:
            problems += error.problems
        problems += _problems_of_rows(curve, node)
    if problems:
        raise ConfigError(problems)
    return found


def _platform(curve: Curve, root: SourceNode, path: Path) -> ClusterSpec:
    resolver = Resolver()
    resolver.read(path)
    resolved = resolver.resolve("cluster", root, "cluster")
    if resolver.problems:
        raise ConfigError(resolver.problems)
    decoded = decode(ClusterSpec, resolved)
    if isinstance(decoded, list):
        raise ConfigError(decoded)
    return decoded.model_copy(update={"nodes": curve.nodes})


def _problems_of_rows(curve: Curve, node: SourceNode) -> Iterator[Problem]:
    for (size, value), row in zip(curve.rows, node.value["rows"].value, strict=True):
        if size <= 0 or value <= 0:
            yield Problem(str(row.mark), "rows", f"[{size}, {value}] must be two numbers above 0")
