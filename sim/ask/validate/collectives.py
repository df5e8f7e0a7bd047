"""Measured collectives, predicted with the costs and links that step simulations use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sim.cluster.build import build_cluster
from sim.cluster.cluster import Cluster
from sim.comm.pattern import Group
from sim.comm.tuner import carriers, collective_cost
from sim.errors import ConfigError, Problem
from sim.inputs.catalogue import catalogue_root
from sim.inputs.curves import Curve, MeasuredCurve, is_curve_table, load_curves
from sim.inputs.reader import yaml_files
from sim.layout.flows import collective_flows
from sim.layout.grid import row_of_ranks
from sim.metrics.curves import CurvePoint, CurveScore, CurveValidation, bus_factor
from sim.programs.ranks import groups_of


def find_curves(paths: Sequence[Path] = ()) -> list[MeasuredCurve]:
    """The measured curves under `paths`, by default those of the catalogue. Raises ConfigError."""
    files = [file for path in paths or (catalogue_root() / "experiments",) for file in yaml_files(path)]
    return [curve for file in dict.fromkeys(files) if _holds_curves(file) for curve in load_curves(file)]


def _holds_curves(file: Path) -> bool:
    try:
        return is_curve_table(file)
    except ConfigError:  # what is no YAML is the business of those who read experiments
        return False


def validate_curves(curves: Sequence[MeasuredCurve]) -> CurveValidation:
    """Predict every curve. Raises ConfigError where a platform cannot be built."""
    return CurveValidation(tuple(predict_curve(curve) for curve in curves))


def predict_curve(measured: MeasuredCurve) -> CurveScore:
    """One curve: the collective alone on the platform."""
    curve = measured.curve
    cluster = build_cluster(measured.cluster, merge_sprayed=True)
    group = communicator(cluster, _per_node(measured, cluster), curve.collective)
    algorithms = None if curve.algorithm is None else (curve.algorithm,)
    points = []
    for size, value in curve.rows:
        cost = collective_cost(curve.collective, float(size), group, cluster.node, algorithms)
        measured_s = measured_time(curve, group.size, size, value)
        points.append(CurvePoint(size, measured_s, cost.seconds(group), cost.algorithm))
    return CurveScore(
        name=curve.name,
        table=measured.path.stem,
        platform=cluster.node.name,
        collective=curve.collective,
        ranks=group.size,
        nodes=cluster.n_nodes,
        source=curve.source,
        assumed=curve.assumed,
        points=tuple(points),
    )


def communicator(cluster: Cluster, per_node: int, collective: str) -> Group:
    """The first `per_node` accelerators of every node as one communicator, with the carriers of `collective`."""
    members = cluster.places.first[:-1, None] + np.arange(per_node)
    grid = row_of_ranks(cluster.n_accelerators)
    names = carriers([collective], cluster.node, members.size)
    sets = [collective_flows("all", grid, cluster, members.reshape(1, -1), 0, carrier=name)[0] for name in names]
    (group,) = groups_of(sets, np.array([0]), cluster)
    return group


def measured_time(curve: Curve, ranks: int, size: int, value: float) -> float:
    """Seconds of one row."""
    return value / 1e6 if curve.unit == "us" else bus_factor(curve.collective, ranks) * size / (value * 1e9)


def _per_node(measured: MeasuredCurve, cluster: Cluster) -> int:
    there = int(cluster.places.sizes.min())
    wanted = measured.curve.accelerators or there
    if wanted > there or wanted * cluster.n_nodes < 2:
        message = f"{wanted} ranks on each of {cluster.n_nodes} nodes of {there} accelerators"
        raise ConfigError(
            Problem(
                str(measured.path),
                f"{measured.curve.name}.accelerators",
                message,
                "at least two ranks, at most what is there",
            )
        )
    return wanted
